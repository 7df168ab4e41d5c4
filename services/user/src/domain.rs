//! What an account, a refresh token and a signing key may do: pure decisions.
//!
//! Never here: async, clock, random, I/O, hashing. `handler.rs` loads what is decided on, and writes what comes out.

use std::time::Duration;

use contract::{
    CustomerId, Timestamp,
    user::{Event, ProfileChanged, RoleChanged, UserRegistered},
};
use kit::{auth::Role, text};
use uuid::Uuid;

/// One account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub id: CustomerId,
    /// The version of the newest row of the stream `user-<id>`.
    pub version: i64,
    /// Lower case.
    pub email: String,
    pub name: String,
    /// An Argon2id hash in PHC format.
    pub password: String,
    pub role: Role,
    pub registered: Timestamp,
    /// How often all of its sessions were ended: by another password, or by logging out everywhere.
    pub sessions_ended: i64,
}

/// What the right password proves: that the account's owner is here. It holds until all sessions are ended, so that they end as well
/// what is under way between a check and what is done upon it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(i64);

/// Why an account was not made or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another account has the address.
    EmailTaken,
    /// The account does not exist (any more).
    UnknownUser,
    /// The refresh token is unknown, expired, revoked or was used before.
    InvalidRefreshToken,
    /// There is an admin already, so that no first one is made.
    AdminExists,
    /// Nobody else could give roles any more.
    LastAdmin,
    /// All sessions of the account were ended since its password was checked.
    SessionsEnded,
}

/// What is to be different about an account; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub name: Option<String>,
    pub email: Option<String>,
    /// The new hash.
    pub password: Option<String>,
    /// That the owner asks. Another address or password needs it.
    pub proof: Option<Proof>,
}

impl User {
    /// Decides a registration; the address must be free.
    ///
    /// # Errors
    /// [`Refusal::EmailTaken`].
    pub fn register(self, is_taken: bool) -> Result<(Self, Event), Refusal> {
        if is_taken {
            return Err(Refusal::EmailTaken);
        }
        let event = UserRegistered { user_id: self.id, role: self.role.as_str().to_owned() };
        Ok((Self { version: 1, ..self }, event.into()))
    }

    /// What the right password of the account, as it is here, proves.
    pub fn proof(&self) -> Proof {
        Proof(self.sessions_ended)
    }

    /// Decides whether a proof still holds.
    ///
    /// # Errors
    /// [`Refusal::SessionsEnded`].
    pub fn admits(&self, proof: Proof) -> Result<(), Refusal> {
        if proof == self.proof() { Ok(()) } else { Err(Refusal::SessionsEnded) }
    }

    /// Ends all sessions, and what was proved before.
    #[must_use]
    pub fn with_sessions_ended(self) -> Self {
        Self { sessions_ended: self.sessions_ended + 1, ..self }
    }

    /// Decides a change; `None` if nothing would be different. Another password ends all sessions.
    ///
    /// # Errors
    /// [`Refusal::EmailTaken`]; [`Refusal::SessionsEnded`], also where a proof is missing.
    pub fn change(&self, change: Change, is_taken: bool) -> Result<Option<(Self, Event)>, Refusal> {
        let needs_proof = change.email.is_some() || change.password.is_some();
        if needs_proof && change.proof != Some(self.proof()) {
            return Err(Refusal::SessionsEnded);
        }
        let has_password = change.password.is_some();
        let mut changed = self.clone();
        changed.name = change.name.unwrap_or(changed.name);
        changed.email = change.email.unwrap_or(changed.email);
        changed.password = change.password.unwrap_or(changed.password);
        if changed == *self {
            return Ok(None);
        }
        if is_taken && changed.email != self.email {
            return Err(Refusal::EmailTaken);
        }
        changed.version += 1;
        let changed = if has_password { changed.with_sessions_ended() } else { changed };
        Ok(Some((changed, ProfileChanged { user_id: self.id }.into())))
    }
}

impl User {
    /// Decides another role; `None` if it is the same. `admins` is how many there are.
    ///
    /// # Errors
    /// [`Refusal::LastAdmin`].
    pub fn with_role(&self, role: Role, reason: String, admins: i64) -> Result<Option<(Self, Event)>, Refusal> {
        if role == self.role {
            return Ok(None);
        }
        if self.role == Role::Admin && admins <= 1 {
            return Err(Refusal::LastAdmin);
        }
        let word = |role: Role| role.as_str().to_owned();
        let event = RoleChanged { user_id: self.id, from: word(self.role), to: word(role), reason };
        Ok(Some((Self { role, version: self.version + 1, ..self.clone() }, event.into())))
    }
}

/// A refresh token as it is kept: only its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    pub hash: [u8; 32],
    /// All tokens that came out of one login.
    pub family: Uuid,
    pub user_id: CustomerId,
    pub expires: Timestamp,
    pub used: bool,
    /// What it was exchanged for; tokens from before this was kept have none.
    pub successor: Option<Successor>,
}

/// The token that took the place of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    pub exchanged: Timestamp,
    /// Its text, which only the token before it opens.
    pub sealed: Vec<u8>,
}

/// So long after it was exchanged a token is exchanged for the same again: its answer was lost, or two tabs came at once.
const AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// What comes of a refresh token that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Good,
    /// Used a moment ago: it gets the same successor.
    Again,
    /// Used before: whoever shows it, or showed it then, stole it. The whole family ends.
    Reused,
    Expired,
}

impl RefreshToken {
    pub fn show(&self, now: Timestamp) -> Shown {
        let is_again = self.successor.as_ref().is_some_and(|successor| successor.exchanged.plus(AGAIN_WITHIN) > now);
        match (self.used, self.expires > now) {
            (true, true) if is_again => Shown::Again,
            (true, _) => Shown::Reused,
            (false, true) => Shown::Good,
            (false, false) => Shown::Expired,
        }
    }
}

/// A key that tokens are signed with: made, published, then signing, then retired, then forgotten.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    pub kid: String,
    /// As it is kept: 32 bytes, or sealed.
    pub seed: Vec<u8>,
    pub made: Timestamp,
    pub signs_from: Option<Timestamp>,
    pub retired: Option<Timestamp>,
}

impl SigningKey {
    fn signs(&self) -> bool {
        self.signs_from.is_some() && self.retired.is_none()
    }

    fn is_next(&self) -> bool {
        self.signs_from.is_none()
    }
}

/// The keys as they should be: one signs, the next is published ahead of time so that verifiers know it when it takes over,
/// and a retired one is kept for as long as what it signed may hold: `token` is how long a token holds, and how long another replica
/// may not have seen yet that the key is retired.
///
/// `fresh` are two new keys, used as far as they are needed. The first key that comes out is the one that signs.
pub fn keyring(
    keys: Vec<SigningKey>,
    fresh: [SigningKey; 2],
    now: Timestamp,
    signs_for: Duration,
    token: Duration,
) -> Vec<SigningKey> {
    let mut fresh = fresh.into_iter();
    let mut kept: Vec<SigningKey> =
        keys.into_iter().filter(|key| key.retired.is_none_or(|retired| retired.plus(token * 2) > now)).collect();
    for key in &mut kept {
        if key.signs() && key.signs_from.is_some_and(|from| from.plus(signs_for) <= now) {
            key.retired = Some(now);
        }
    }
    if !kept.iter().any(SigningKey::signs) {
        let next = kept.iter().position(SigningKey::is_next);
        let mut next = next.map(|at| kept.remove(at)).or_else(|| fresh.next()).expect("two are given, one is taken here");
        next.signs_from = Some(now);
        kept.push(next);
    }
    if !kept.iter().any(SigningKey::is_next) {
        kept.extend(fresh.next());
    }
    kept.sort_by_key(|key| (!key.signs(), key.kid.clone()));
    kept
}

/// The least and most characters of a password.
const PASSWORD_CHARS: std::ops::RangeInclusive<usize> = 12..=128;
const NAME_CHARS_MAX: usize = 200;
/// RFC 5321.
const EMAIL_CHARS_MAX: usize = 254;

/// A password of an allowed length, in which nothing hides. Its characters are counted as people see them: composed.
///
/// # Errors
/// What is wrong with it.
pub fn password(text: &str) -> Result<(), String> {
    if PASSWORD_CHARS.contains(&text::composed(text).chars().count()) {
        return text::shows_all(text);
    }
    Err(format!("must have {} to {} characters", PASSWORD_CHARS.start(), PASSWORD_CHARS.end()))
}

/// A name: composed, without blanks around it, and nothing hides in it.
///
/// # Errors
/// What is wrong with it.
pub fn name(text: &str) -> Result<String, String> {
    text::line(text, NAME_CHARS_MAX)
}

/// A new e-mail address: composed, in lower case, and nothing hides in it, so that one person has one account however they type it.
///
/// # Errors
/// What is wrong with it; whether it exists only a message to it could tell.
pub fn email(text: &str) -> Result<String, String> {
    let is_whole = text.trim() == text;
    let email = text::word(text, EMAIL_CHARS_MAX).map(|text| text::composed(&text.to_lowercase()));
    email.ok().filter(|email| is_whole && has_parts(email)).ok_or_else(|| "must be an e-mail address".to_owned())
}

/// An e-mail address as it was typed to log in, in lower case. It may be one that could not be registered any more: its account is
/// looked for by all of its [`spellings`].
///
/// # Errors
/// What is wrong with it.
pub fn typed_email(text: &str) -> Result<String, String> {
    let is_clean =
        text.chars().count() <= EMAIL_CHARS_MAX && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control());
    if is_clean && has_parts(text) { Ok(text.to_lowercase()) } else { Err("must be an e-mail address".to_owned()) }
}

fn has_parts(email: &str) -> bool {
    email.split_once('@').is_some_and(|(local, domain)| {
        !local.is_empty() && !domain.contains('@') && domain.split('.').all(|label| !label.is_empty())
    })
}

/// How one address may be written: as it is here, composed as new ones are kept, and decomposed. Accounts from before addresses were
/// composed are kept as they were typed; so each is found by its own spelling first, and by the others where nobody has those.
pub fn spellings(email: &str) -> Vec<String> {
    let mut spellings = vec![email.to_owned(), text::composed(email), text::decomposed(email)];
    spellings.dedup();
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);
    const TOKEN: Duration = Duration::from_secs(900);

    fn user() -> User {
        let text = |text: &str| text.to_owned();
        let id = CustomerId(Uuid::from_u128(1));
        let (email, name, password) = (text("a@b.c"), text("A"), text("hash"));
        User { id, version: 0, email, name, password, role: Role::Customer, registered: NOW, sessions_ended: 0 }
    }

    #[test]
    fn a_registration_starts_the_stream_and_names_no_person() {
        let (made, event) = user().register(false).unwrap();
        assert_eq!(made.version, 1);
        assert!(!event.encode().data.contains("a@b.c"));
        assert_eq!(user().register(true), Err(Refusal::EmailTaken));
    }

    #[test]
    fn a_change_is_an_event_only_if_something_is_different() {
        let named = |name: &str| Change { name: Some(name.to_owned()), ..Change::default() };
        assert_eq!(user().change(named("A"), false), Ok(None));
        let (changed, _) = user().change(named("B"), false).unwrap().unwrap();
        assert_eq!((changed.name.as_str(), changed.version), ("B", 1));
    }

    #[test]
    fn an_address_changes_only_to_a_free_one() {
        let to = |email: &str| Change { email: Some(email.to_owned()), proof: Some(user().proof()), ..Change::default() };
        assert_eq!(user().change(to("x@b.c"), true), Err(Refusal::EmailTaken));
        assert_eq!(user().change(to("a@b.c"), true), Ok(None), "it is taken by oneself");
        let renamed = Change { name: Some("B".to_owned()), ..to("a@b.c") };
        assert!(user().change(renamed, true).unwrap().is_some(), "nor does another name need a free address");
    }

    #[test]
    fn the_last_admin_stays_one() {
        let admin = User { role: Role::Admin, ..user() };
        let to = |role, admins| admin.with_role(role, "left us".to_owned(), admins);
        assert_eq!(to(Role::Operator, 1), Err(Refusal::LastAdmin));
        assert_eq!(to(Role::Admin, 1), Ok(None));
        let (changed, event) = to(Role::Operator, 2).unwrap().unwrap();
        assert_eq!((changed.role, changed.version), (Role::Operator, admin.version + 1));
        assert!(event.encode().data.contains(r#""from":"admin","to":"operator","reason":"left us""#), "{}", event.encode().data);
    }

    #[test]
    fn another_password_ends_what_was_proved_by_the_one_before() {
        let proof = user().proof();
        let to = |password: &str| Change { password: Some(password.to_owned()), proof: Some(proof), ..Change::default() };
        assert_eq!(user().admits(proof), Ok(()));
        let (changed, _) = user().change(to("other"), false).unwrap().unwrap();
        assert_eq!(changed.admits(proof), Err(Refusal::SessionsEnded));
        assert_eq!(changed.change(to("third"), false), Err(Refusal::SessionsEnded));
        assert_eq!(changed.admits(changed.proof()), Ok(()));
        assert_eq!(user().with_sessions_ended().admits(proof), Err(Refusal::SessionsEnded), "so does logging out everywhere");
    }

    #[test]
    fn another_address_or_password_needs_a_proof_and_another_name_none() {
        let text = || Some("other@b.c".to_owned());
        for change in [Change { email: text(), ..Change::default() }, Change { password: text(), ..Change::default() }] {
            assert_eq!(user().change(change, false), Err(Refusal::SessionsEnded));
        }
        assert!(user().change(Change { name: text(), ..Change::default() }, false).unwrap().is_some());
    }

    #[test]
    fn a_refresh_token_is_good_once_and_until_it_expires() {
        let (hash, family, user_id) = ([0; 32], Uuid::nil(), user().id);
        let token = |used, expires| RefreshToken { hash, family, user_id, expires, used, successor: None };
        assert_eq!(token(false, NOW.plus(DAY)).show(NOW), Shown::Good);
        assert_eq!(token(false, NOW).show(NOW), Shown::Expired);
        assert_eq!(token(true, NOW.plus(DAY)).show(NOW), Shown::Reused);
        assert_eq!(token(true, NOW).show(NOW), Shown::Reused);
        let exchanged = |expires| {
            let successor = Some(Successor { exchanged: NOW, sealed: Vec::new() });
            RefreshToken { successor, ..token(true, expires) }
        };
        assert_eq!(exchanged(NOW.plus(DAY)).show(NOW.plus(Duration::from_secs(9))), Shown::Again);
        assert_eq!(exchanged(NOW.plus(DAY)).show(NOW.plus(AGAIN_WITHIN)), Shown::Reused);
        assert_eq!(exchanged(NOW).show(NOW), Shown::Reused);
    }

    fn fresh(at: Timestamp) -> [SigningKey; 2] {
        [1, 2].map(|n| SigningKey { kid: format!("{}-{n}", at.0), seed: vec![n; 32], made: at, signs_from: None, retired: None })
    }

    fn kids(keys: &[SigningKey]) -> Vec<&str> {
        keys.iter().map(|key| key.kid.as_str()).collect()
    }

    #[test]
    fn keys_are_made_kept_and_rotated_with_the_next_one_published_ahead() {
        let first = keyring(Vec::new(), fresh(NOW), NOW, DAY, TOKEN);
        assert_eq!(kids(&first), [format!("{}-1", NOW.0), format!("{}-2", NOW.0)]);
        let soon = NOW.plus(DAY / 2);
        assert_eq!(kids(&keyring(first.clone(), fresh(soon), soon, DAY, TOKEN)), kids(&first), "a restart keeps them");

        let due = NOW.plus(DAY);
        let rotated = keyring(first.clone(), fresh(due), due, DAY, TOKEN);
        assert_eq!(rotated[0].kid, first[1].kid, "the one that was published ahead signs now");
        assert_eq!(rotated.len(), 3, "the old one still verifies, and a new one is published");

        let soon_after = due.plus(TOKEN * 2 - Duration::from_secs(1));
        let kept = keyring(rotated.clone(), fresh(soon_after), soon_after, DAY, TOKEN);
        assert_eq!(kids(&kept), kids(&rotated), "what the old one signed may still hold");

        let later = due.plus(TOKEN * 2);
        let forgotten = keyring(rotated.clone(), fresh(later), later, DAY, TOKEN);
        assert_eq!(kids(&forgotten), [&rotated[0].kid, &rotated.iter().find(|key| key.is_next()).unwrap().kid]);
    }

    #[test]
    fn addresses_are_checked_and_lowered() {
        assert_eq!(email("Ann.B+x@Example.COM").unwrap(), "ann.b+x@example.com");
        for bad in ["", "a", "@b.c", "a@", "a@b@c", "a b@c.d", "a@b..c", "a@.b", "a@b.", &format!("{}@b.c", "a".repeat(251))] {
            assert!(email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_found_by_each_of_its_spellings() {
        let (composed, decomposed) = ("jos\u{e9}@b.c".to_owned(), "jose\u{301}@b.c".to_owned());
        assert_eq!(email(&decomposed).unwrap(), composed);
        assert_eq!(spellings(&composed), [composed.clone(), decomposed.clone()]);
        assert_eq!(spellings(&decomposed), [decomposed.clone(), composed, decomposed]);
        assert_eq!(spellings("ann@b.c"), ["ann@b.c"]);
        assert!(typed_email("an\u{200b}n@b.c").is_ok() && email("an\u{200b}n@b.c").is_err() && email(" ann@b.c").is_err());
    }

    #[test]
    fn passwords_have_12_to_128_characters() {
        for (length, is_good) in [(11, false), (12, true), (128, true), (129, false)] {
            assert_eq!(password(&"ä".repeat(length)).is_ok(), is_good, "{length}");
        }
    }

    #[test]
    fn names_are_trimmed_and_bounded() {
        assert_eq!(name(" Ann ").unwrap(), "Ann");
        assert!(name(&"ä".repeat(200)).is_ok());
        for bad in ["", "  ", "a\nb", &"x".repeat(201)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }
}
