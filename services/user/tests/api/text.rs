//! Text as people see it: accents, what hides, and accounts from before it was looked at.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, SaltString},
};
use axum::http::StatusCode;
use contract::{CustomerId, Meta};
use eventlog::Job;
use kit::auth::Role;
use serde_json::json;
use skald_user::{
    domain::User,
    handler::{Done, Work},
};

use crate::house::{EMAIL, House, PASSWORD, house};

#[tokio::test]
async fn an_address_and_a_password_are_the_same_however_their_accents_are_composed() {
    let house = house().await;
    let (composed, decomposed) = ("jos\u{e9}@example.com", "jose\u{301}@EXAMPLE.com");
    let password = |accent: &str| format!("caf{accent} au lait, s'il");
    let account = |email: &str, password: String| json!({"email": email, "password": password, "name": "Jose\u{301} "});
    let made = house.post("/v1/register", account(decomposed, password("e\u{301}"))).await;
    assert_eq!((made.text("email"), made.text("name")), (composed.to_owned(), "Jos\u{e9}".to_owned()));
    house.post("/v1/register", account(composed, password("\u{e9}"))).await.is_problem(409, "email_taken");
    for email in [composed, decomposed] {
        for accent in ["\u{e9}", "e\u{301}"] {
            assert_eq!(house.login(email, &password(accent)).await.status, StatusCode::OK, "{email} {accent}");
        }
    }
}

#[tokio::test]
async fn nothing_hides_in_an_address_a_name_or_a_password() {
    let house = house().await;
    for hidden in ["\u{200b}", "\u{2060}", "\u{202e}", "\u{ad}", "\u{7}"] {
        let body = json!({"email": format!("an{hidden}n@example.com"), "password": format!("{PASSWORD}{hidden}"), "name": format!("A{hidden}nn")});
        assert_eq!(house.post("/v1/register", body).await.wrong_fields(), ["email", "password", "name"], "{hidden:?}");
    }
    let nothing = json!({"email": EMAIL, "password": PASSWORD, "name": "\u{3164}\u{200d}"});
    assert_eq!(house.post("/v1/register", nothing).await.wrong_fields(), ["name"]);
}

/// Accounts from before addresses and passwords were composed.
#[tokio::test]
async fn an_account_that_is_kept_as_it_was_typed_is_found_by_any_spelling_and_holds_its_address() {
    let house = house().await;
    let (composed, decomposed, hidden) = ("jos\u{e9}@example.com", "jose\u{301}@example.com", "an\u{200b}n@example.com");
    let password = "caf\u{65}\u{301} au lait, s'il";
    for email in [decomposed, hidden] {
        house.keep(email, password).await;
    }
    for email in [composed, decomposed, hidden] {
        assert_eq!(house.login(email, password).await.status, StatusCode::OK, "{email:?}");
    }
    house.register(composed).await.is_problem(409, "email_taken");
    house.login("ann@example.com", password).await.is_problem(401, "invalid_credentials");
}

impl House {
    /// Keeps an account as it was kept before text was composed.
    async fn keep(&self, email: &str, password: &str) {
        let salt = SaltString::encode_b64(&[7; 16]).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
        let hash = argon2.hash_password(password.as_bytes(), &salt).unwrap().to_string();
        let (id, registered) = (CustomerId(self.log.env().id()), self.log.env().now());
        let (email, name, role) = (email.to_owned(), "Ann".to_owned(), Role::Customer);
        let user = User { id, version: 0, email, name, password: hash, role, registered, sessions_ended: 0 };
        let job = Job { work: Work::Register(Box::new(user)), meta: Meta::default() };
        assert!(matches!(self.writer.submit(job).await.unwrap(), Done::User(_)));
    }
}
