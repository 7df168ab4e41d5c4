//! The tables of accounts, refresh tokens and signing keys. The only SQL of the service.
//!
//! Never here: rules. The writer's side is called by `handler.rs` in its transaction, the readers' side by `http.rs`.

use contract::{CustomerId, Timestamp};
use eventlog::{Conn, Error, Log, Migration, for_update, insert_many, on, select_in};
use kit::auth::{Role, Roles};
use uuid::Uuid;

use crate::domain::{RefreshToken, SigningKey, Successor, User};

/// The schema of this service, on top of the log's.
pub const MIGRATIONS: [Migration; 5] = [
    Migration {
        version: 100,
        name: "user",
        sqlite: include_str!("../migrations/0100_user.sqlite.sql"),
        postgres: include_str!("../migrations/0100_user.postgres.sql"),
    },
    Migration {
        version: 101,
        name: "turn",
        sqlite: include_str!("../migrations/0101_turn.sqlite.sql"),
        postgres: include_str!("../migrations/0101_turn.postgres.sql"),
    },
    Migration {
        version: 102,
        name: "sessions_ended",
        sqlite: include_str!("../migrations/0102_sessions_ended.sqlite.sql"),
        postgres: include_str!("../migrations/0102_sessions_ended.postgres.sql"),
    },
    Migration {
        version: 103,
        name: "role changes",
        sqlite: include_str!("../migrations/0103_role_changes.sqlite.sql"),
        postgres: include_str!("../migrations/0103_role_changes.postgres.sql"),
    },
    Migration {
        version: 104,
        name: "successors",
        sqlite: include_str!("../migrations/0104_successors.sqlite.sql"),
        postgres: include_str!("../migrations/0104_successors.postgres.sql"),
    },
];

/// Waits until no other replica does what there may be only one of: the signing key, the first admin; or takes a role from one of two last admins.
pub(crate) async fn take_turn(conn: &mut Conn<'_>) -> Result<(), Error> {
    let lock = for_update(conn);
    Ok(on!(conn, |c| sqlx::QueryBuilder::<DB>::new("SELECT one FROM turn").push(lock).build().execute(c).await.map(drop))?)
}

type UserRow = (Uuid, i64, String, String, String, String, i64, i64);

/// The columns of a [`UserRow`].
macro_rules! user_columns {
    () => {
        "id, version, email, name, password, role, registered_us, sessions_ended"
    };
}

fn user(row: UserRow) -> Result<User, Error> {
    let (id, version, email, name, password, role, registered_us, sessions_ended) = row;
    let role = Role::parse(&role).ok_or_else(|| Error::Corrupt(format!("role {role}")))?;
    let (id, registered) = (CustomerId(id), Timestamp(registered_us));
    Ok(User { id, version, email, name, password, role, registered, sessions_ended })
}

/// Accounts by id, to be changed; `ids` are sorted.
pub(crate) async fn users(conn: &mut Conn<'_>, ids: &[Uuid]) -> Result<Vec<User>, Error> {
    let lock = for_update(conn);
    let select = concat!("SELECT ", user_columns!(), " FROM users WHERE id");
    let rows = select_in!(conn, UserRow, select, ids, format!("ORDER BY id{lock}"))?;
    rows.into_iter().map(user).collect()
}

/// Which of these addresses are taken, and by whom.
pub(crate) async fn taken(conn: &mut Conn<'_>, emails: &[String]) -> Result<Vec<(String, Uuid)>, Error> {
    Ok(select_in!(conn, (String, Uuid), "SELECT email, id FROM users WHERE email", emails, "")?)
}

/// How many have this role.
pub(crate) async fn count_of_role(conn: &mut Conn<'_>, role: Role) -> Result<i64, Error> {
    Ok(on!(conn, |c| sqlx::query_scalar::<DB, i64>("SELECT COUNT(*) FROM users WHERE role = $1")
        .bind(role.as_str())
        .fetch_one(c)
        .await)?)
}

/// Notes that the roles of these accounts were changed now.
pub(crate) async fn note_roles(conn: &mut Conn<'_>, changed: &[(CustomerId, Role)], now: Timestamp) -> Result<(), Error> {
    Ok(insert_many!(
        conn,
        "INSERT INTO role_changes (user_id, role, changed_us)",
        changed,
        |r| [r.0.0, r.1.as_str(), now.0],
        "ON CONFLICT (user_id) DO UPDATE SET role = excluded.role, changed_us = excluded.changed_us"
    )?)
}

/// Forgets changes of roles that no token can be older than.
pub(crate) async fn drop_roles(conn: &mut Conn<'_>, before: Timestamp) -> Result<(), Error> {
    on!(conn, |c| sqlx::query::<DB>("DELETE FROM role_changes WHERE changed_us <= $1")
        .bind(before.0)
        .execute(c)
        .await
        .map(drop))?;
    Ok(())
}

/// The accounts whose roles were changed after this, and what they may do now.
pub(crate) async fn roles_since(log: &Log, after: Timestamp) -> Result<Roles, Error> {
    let mut reader = log.reader().await?;
    let select = "SELECT user_id, role FROM role_changes WHERE changed_us > $1";
    let rows: Vec<(Uuid, String)> =
        on!(&mut reader.conn(), |c| sqlx::query_as::<DB, (Uuid, String)>(select).bind(after.0).fetch_all(c).await)?;
    let read = |(id, role): (Uuid, String)| {
        let role = Role::parse(&role).ok_or_else(|| Error::Corrupt(format!("role {role}")))?;
        Ok((CustomerId(id), role))
    };
    rows.into_iter().map(read).collect()
}

/// Whether anybody has this role.
pub(crate) async fn has_role(conn: &mut Conn<'_>, role: Role) -> Result<bool, Error> {
    let found: Option<i64> = on!(conn, |c| sqlx::query_scalar::<DB, i64>("SELECT version FROM users WHERE role = $1 LIMIT 1")
        .bind(role.as_str())
        .fetch_optional(c)
        .await)?;
    Ok(found.is_some())
}

pub(crate) async fn save_users(conn: &mut Conn<'_>, users: &[User]) -> Result<(), Error> {
    Ok(insert_many!(
        conn,
        concat!("INSERT INTO users (", user_columns!(), ")"),
        users,
        |r| [
            r.id.0,
            r.version,
            r.email.as_str(),
            r.name.as_str(),
            r.password.as_str(),
            r.role.as_str(),
            r.registered.0,
            r.sessions_ended
        ],
        "ON CONFLICT (id) DO UPDATE SET version = excluded.version, email = excluded.email, name = excluded.name, \
         password = excluded.password, role = excluded.role, sessions_ended = excluded.sessions_ended"
    )?)
}

type TokenRow = (Vec<u8>, Uuid, Uuid, i64, i64, Option<i64>, Option<Vec<u8>>);

/// Whose these refresh tokens are, which never changes; locks nothing.
pub(crate) async fn owners(conn: &mut Conn<'_>, hashes: &[Vec<u8>]) -> Result<Vec<Uuid>, Error> {
    let rows = select_in!(conn, (Uuid,), "SELECT user_id FROM refresh_tokens WHERE hash", hashes, "")?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Refresh tokens by hash, to be used; `hashes` are sorted.
pub(crate) async fn tokens(conn: &mut Conn<'_>, hashes: &[Vec<u8>]) -> Result<Vec<RefreshToken>, Error> {
    let lock = for_update(conn);
    let rows = select_in!(
        conn,
        TokenRow,
        "SELECT hash, family, user_id, expires_us, used, exchanged_us, successor FROM refresh_tokens WHERE hash",
        hashes,
        format!("ORDER BY hash{lock}")
    )?;
    rows.into_iter()
        .map(|(hash, family, user_id, expires_us, used, exchanged_us, sealed)| {
            let hash = hash.try_into().map_err(|_| Error::Corrupt("a refresh token's hash is 32 bytes".to_owned()))?;
            let (user_id, expires) = (CustomerId(user_id), Timestamp(expires_us));
            let successor = exchanged_us.zip(sealed);
            let successor = successor.map(|(exchanged_us, sealed)| Successor { exchanged: Timestamp(exchanged_us), sealed });
            Ok(RefreshToken { hash, family, user_id, expires, used: used != 0, successor })
        })
        .collect()
}

pub(crate) async fn save_tokens(conn: &mut Conn<'_>, tokens: &[RefreshToken]) -> Result<(), Error> {
    Ok(insert_many!(
        conn,
        "INSERT INTO refresh_tokens (hash, family, user_id, expires_us, used, exchanged_us, successor)",
        tokens,
        |r| [
            r.hash.to_vec(),
            r.family,
            r.user_id.0,
            r.expires.0,
            i64::from(r.used),
            r.successor.as_ref().map(|successor| successor.exchanged.0),
            r.successor.as_ref().map(|successor| successor.sealed.clone())
        ],
        "ON CONFLICT (hash) DO UPDATE SET used = excluded.used, exchanged_us = excluded.exchanged_us, successor = excluded.successor"
    )?)
}

pub(crate) async fn drop_family(conn: &mut Conn<'_>, family: Uuid) -> Result<(), Error> {
    on!(conn, |c| sqlx::query::<DB>("DELETE FROM refresh_tokens WHERE family = $1").bind(family).execute(c).await.map(drop))?;
    Ok(())
}

pub(crate) async fn drop_tokens_of(conn: &mut Conn<'_>, id: CustomerId) -> Result<(), Error> {
    on!(conn, |c| sqlx::query::<DB>("DELETE FROM refresh_tokens WHERE user_id = $1").bind(id.0).execute(c).await.map(drop))?;
    Ok(())
}

/// Forgets refresh tokens that have expired. Used ones are kept until then, so that a reuse is noticed.
pub(crate) async fn drop_expired(conn: &mut Conn<'_>, now: Timestamp) -> Result<(), Error> {
    on!(conn, |c| sqlx::query::<DB>("DELETE FROM refresh_tokens WHERE expires_us <= $1").bind(now.0).execute(c).await.map(drop))?;
    Ok(())
}

type KeyRow = (String, Vec<u8>, i64, Option<i64>, Option<i64>);

/// All signing keys; there are two or three.
pub(crate) async fn keys(conn: &mut Conn<'_>) -> Result<Vec<SigningKey>, Error> {
    let lock = for_update(conn);
    let rows: Vec<KeyRow> = on!(conn, |c| {
        let mut query =
            sqlx::QueryBuilder::<DB>::new("SELECT kid, seed, made_us, signs_from_us, retired_us FROM signing_keys ORDER BY kid");
        query.push(lock).build_query_as().fetch_all(c).await
    })?;
    rows.into_iter()
        .map(|(kid, seed, made_us, signs_from_us, retired_us)| {
            let (made, signs_from, retired) = (Timestamp(made_us), signs_from_us.map(Timestamp), retired_us.map(Timestamp));
            Ok(SigningKey { kid, seed, made, signs_from, retired })
        })
        .collect()
}

/// Writes the keys as they should be, and forgets all others.
pub(crate) async fn save_keys(conn: &mut Conn<'_>, before: &[SigningKey], keys: &[SigningKey]) -> Result<(), Error> {
    for gone in before.iter().filter(|key| !keys.iter().any(|kept| kept.kid == key.kid)) {
        let kid = gone.kid.as_str();
        on!(&mut *conn, |c| sqlx::query::<DB>("DELETE FROM signing_keys WHERE kid = $1").bind(kid).execute(c).await.map(drop))?;
    }
    Ok(insert_many!(
        conn,
        "INSERT INTO signing_keys (kid, seed, made_us, signs_from_us, retired_us)",
        keys,
        |r| [r.kid.as_str(), r.seed.clone(), r.made.0, r.signs_from.map(|at| at.0), r.retired.map(|at| at.0)],
        "ON CONFLICT (kid) DO UPDATE SET seed = excluded.seed, signs_from_us = excluded.signs_from_us, retired_us = excluded.retired_us"
    )?)
}

/// The account with the first of these spellings of an address that any account has, as readers see it.
pub(crate) async fn by_email(log: &Log, spellings: &[String]) -> Result<Option<User>, Error> {
    let mut reader = log.reader().await?;
    let select = concat!("SELECT ", user_columns!(), " FROM users WHERE email");
    let rows = select_in!(&mut reader.conn(), UserRow, select, spellings, "")?;
    let first = |user: &User| spellings.iter().position(|spelling| *spelling == user.email);
    let users: Vec<User> = rows.into_iter().map(user).collect::<Result<_, _>>()?;
    Ok(users.into_iter().min_by_key(first))
}

/// The account with this id, as readers see it.
pub(crate) async fn by_id(log: &Log, id: CustomerId) -> Result<Option<User>, Error> {
    let mut reader = log.reader().await?;
    let select = concat!("SELECT ", user_columns!(), " FROM users WHERE id = $1");
    let row: Option<UserRow> =
        on!(&mut reader.conn(), |c| sqlx::query_as::<DB, UserRow>(select).bind(id.0).fetch_optional(c).await)?;
    row.map(user).transpose()
}

/// Answers if the database does.
pub(crate) async fn ping(log: &Log) -> Result<(), Error> {
    let mut reader = log.reader().await?;
    on!(&mut reader.conn(), |c| sqlx::query_scalar::<DB, i64>("SELECT position FROM head").fetch_one(c).await.map(drop))?;
    Ok(())
}
