//! The user database: accounts, as far as the log tells of them.
//!
//! Never here: names, addresses, passwords; the audit does not read what the log does not hold. Nothing goes on from here.

use std::collections::HashMap;

use uuid::Uuid;

use super::{
    laws::{Id, Laws},
    snapshot::{Entry, Snapshot, pages},
    trail::Trails,
    value::{hashed, id, shown, text},
};

/// The fold of one account's stream: its version and a digest of its role.
#[derive(Default)]
struct User {
    version: i64,
    role: u64,
    has_row: bool,
}

pub(super) async fn read(snapshot: &mut Snapshot, trails: &mut Trails, laws: &mut Laws) -> Result<(), sqlx::Error> {
    let mut users: HashMap<u128, User> = HashMap::new();
    trails.walk(snapshot, laws, |laws, entry| take(&mut users, laws, entry)).await?;
    pages!(
        snapshot,
        (Uuid, i64, String),
        "SELECT id, version, role FROM users WHERE id > $1 ORDER BY id LIMIT $2",
        Uuid::nil(),
        |(user_id, version, role)| {
            let same = users.get_mut(&user_id.as_u128()).is_some_and(|user| {
                user.has_row = true;
                (user.version, user.role) == (version, hashed(&*role))
            });
            laws.check(Id::UsersMatchLog, same, || format!("user {user_id}"));
        }
    );
    for (user_id, _) in users.iter().filter(|(_, user)| !user.has_row) {
        laws.check(Id::UsersMatchLog, false, || format!("user {} has no row", shown(*user_id)));
    }
    Ok(())
}

fn take(users: &mut HashMap<u128, User>, laws: &mut Laws, entry: &Entry) {
    let known = match (entry.subject(), entry.kind.as_str()) {
        (Some(("user", user_id)), "user.UserRegistered" | "user.ProfileChanged" | "user.RoleChanged")
            if id(&entry.data, "user_id") == user_id =>
        {
            let user = users.entry(user_id).or_default();
            user.version = entry.version;
            match entry.kind.as_str() {
                "user.UserRegistered" => user.role = hashed(text(&entry.data, "role")),
                "user.RoleChanged" => {
                    user.role = hashed(text(&entry.data, "to"));
                }
                _ => {}
            }
            true
        }
        _ => false,
    };
    laws.check(Id::PayloadsReadable, known, || format!("user: {} in the stream {}", entry.kind, entry.stream));
}
