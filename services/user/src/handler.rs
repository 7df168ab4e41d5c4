//! A batch of work in one transaction: load, decide, append, write back.
//!
//! Never here: SQL, rules, HTTP. Requests come from `http.rs`, housekeeping from `lib.rs`; the decisions are `domain.rs`'s.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use contract::{CustomerId, Message, Meta, Timestamp, topics, user::Event};
use eventlog::{Error, Job, New, Poison, Stored, Unit};
use kit::auth::Role;
use uuid::Uuid;

use crate::{
    domain::{self, Change, Proof, RefreshToken, Refusal, Shown, SigningKey, Successor, User},
    store,
};

/// The hash of a refresh token.
pub type TokenHash = [u8; 32];

/// Something to decide.
pub enum Work {
    Register(Box<User>),
    /// Register an admin, unless there is one.
    FirstAdmin(Box<User>),
    Change(CustomerId, Change),
    /// Give an account another role, and tell why.
    Role {
        id: CustomerId,
        role: Role,
        reason: String,
    },
    /// Open a session: keep the refresh token of a login, if what its password proved still holds.
    Issue(Proof, RefreshToken),
    /// Use a refresh token, and keep the one that takes its place.
    Rotate {
        shown: TokenHash,
        next: TokenHash,
        /// The text of the next one, sealed with the text of the one that is shown.
        sealed: Vec<u8>,
        holds: Duration,
    },
    /// End the family of a refresh token.
    Revoke(TokenHash),
    /// End all families of an account.
    RevokeAll(CustomerId),
    /// Bring the signing keys to where they should be.
    Keys {
        fresh: Box<[SigningKey; 2]>,
        signs_for: Duration,
        token: Duration,
    },
    /// Keep the seeds of these keys as they are here, instead of open.
    Seal(Vec<SigningKey>),
    /// Forget what has expired; `token` is how long a token holds.
    Sweep {
        token: Duration,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum Done {
    User(Box<User>),
    /// A refresh token was exchanged a moment ago, for this.
    Again(Box<User>, Vec<u8>),
    Refused(Refusal),
    /// The keys as they are now; the first one signs.
    Keys(Vec<SigningKey>),
    Nothing,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// Decides the work of the user service.
pub struct Handler;

impl eventlog::Handler for Handler {
    type Work = Work;
    type Done = Done;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<Done>, Error> {
        let mut batch = Batch::load(unit, jobs).await?;
        let mut done = Vec::with_capacity(jobs.len());
        for job in jobs {
            done.push(batch.decide(unit, &job.work, &job.meta));
        }
        batch.save(unit).await?;
        Ok(done)
    }

    fn answer(&self, _: &Done) -> Option<Stored> {
        // No route of this service takes an Idempotency-Key: a second register is refused by its address.
        None
    }

    fn committed(&self, _: Vec<Done>) {}
}

impl bus::Consumer for Handler {
    /// Nobody tells this service anything.
    fn accept(&self, _: &Message) -> Result<Option<Work>, Poison> {
        Ok(None)
    }
}

/// What a batch decides on, as its jobs so far left it.
struct Batch {
    now: Timestamp,
    users: HashMap<CustomerId, User>,
    emails: HashMap<String, CustomerId>,
    tokens: HashMap<TokenHash, RefreshToken>,
    keys: Vec<SigningKey>,
    has_admin: bool,
    admins: i64,

    changed_users: BTreeSet<CustomerId>,
    changed_tokens: BTreeSet<TokenHash>,
    ended_families: HashSet<Uuid>,
    ended_users: HashSet<CustomerId>,
    changed_keys: Option<Vec<SigningKey>>,
    changed_roles: BTreeMap<CustomerId, Role>,
    swept: Option<Duration>,
}

impl Batch {
    async fn load(unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Self, Error> {
        let (mut ids, mut emails, mut hashes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (mut has_keys, mut asks_admin, mut asks_role) = (false, false, false);
        for job in jobs {
            match &job.work {
                Work::Register(user) => emails.extend(domain::spellings(&user.email)),
                Work::FirstAdmin(user) => {
                    asks_admin = true;
                    emails.extend(domain::spellings(&user.email));
                }
                Work::Role { id, .. } => {
                    asks_role = true;
                    ids.insert(id.0);
                }
                Work::Change(id, change) => {
                    ids.insert(id.0);
                    emails.extend(change.email.iter().flat_map(|email| domain::spellings(email)));
                }
                Work::Rotate { shown, .. } | Work::Revoke(shown) => drop(hashes.insert(shown.to_vec())),
                Work::Keys { .. } | Work::Seal(_) => has_keys = true,
                Work::Issue(_, token) => drop(ids.insert(token.user_id.0)),
                Work::RevokeAll(id) => drop(ids.insert(id.0)),
                Work::Sweep { .. } => {}
            }
        }
        let now = unit.now();
        let conn = unit.conn();
        if has_keys || asks_admin || asks_role {
            store::take_turn(conn).await?;
        }
        let hashes: Vec<Vec<u8>> = hashes.into_iter().collect();
        // The account's lock comes before those of its tokens: whoever has it is alone with all its sessions, also with those that
        // another replica is just opening, and nobody waits crosswise.
        ids.extend(store::owners(conn, &hashes).await?);
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let users = store::users(conn, &ids).await?;
        let tokens = store::tokens(conn, &hashes).await?;
        let emails: Vec<String> = emails.into_iter().collect();
        let taken = store::taken(conn, &emails).await?;
        Ok(Self {
            now,
            users: users.into_iter().map(|user| (user.id, user)).collect(),
            emails: taken.into_iter().map(|(email, id)| (email, CustomerId(id))).collect(),
            tokens: tokens.into_iter().map(|token| (token.hash, token)).collect(),
            keys: if has_keys { store::keys(conn).await? } else { Vec::new() },
            admins: if asks_role { store::count_of_role(conn, Role::Admin).await? } else { 0 },
            has_admin: asks_admin && store::has_role(conn, Role::Admin).await?,
            changed_users: BTreeSet::new(),
            changed_tokens: BTreeSet::new(),
            ended_families: HashSet::new(),
            ended_users: HashSet::new(),
            changed_keys: None,
            changed_roles: BTreeMap::new(),
            swept: None,
        })
    }

    fn decide(&mut self, unit: &mut Unit<'_>, work: &Work, meta: &Meta) -> Done {
        match work {
            Work::FirstAdmin(_) if self.has_admin => Done::Refused(Refusal::AdminExists),
            Work::Register(user) | Work::FirstAdmin(user) => {
                let is_taken = self.owner(&user.email).is_some();
                match user.as_ref().clone().register(is_taken) {
                    Ok((user, event)) => self.put(unit, user, event, meta),
                    Err(refusal) => Done::Refused(refusal),
                }
            }
            Work::Change(id, change) => self.change(unit, *id, change, meta),
            Work::Issue(proof, token) => self.issue(*proof, token),
            Work::Rotate { shown, next, sealed, holds } => self.rotate(shown, *next, sealed, *holds),
            Work::Revoke(shown) => {
                self.ended_families.extend(self.tokens.get(shown).map(|token| token.family));
                Done::Nothing
            }
            Work::RevokeAll(id) => {
                if let Some(user) = self.users.remove(id) {
                    self.users.insert(*id, user.with_sessions_ended());
                    self.changed_users.insert(*id);
                }
                self.ended_users.insert(*id);
                Done::Nothing
            }
            Work::Keys { fresh, signs_for, token } => {
                let before = self.changed_keys.as_ref().unwrap_or(&self.keys).clone();
                let keys = domain::keyring(before, fresh.as_ref().clone(), self.now, *signs_for, *token);
                self.changed_keys = Some(keys.clone());
                Done::Keys(keys)
            }
            Work::Seal(sealed) => {
                let mut keys = self.changed_keys.as_ref().unwrap_or(&self.keys).clone();
                for key in &mut keys {
                    if let Some(sealed) = sealed.iter().find(|sealed| sealed.kid == key.kid) {
                        key.seed.clone_from(&sealed.seed);
                    }
                }
                self.changed_keys = Some(keys);
                Done::Nothing
            }
            Work::Role { id, role, reason } => self.role(unit, *id, *role, reason, meta),
            Work::Sweep { token } => {
                self.swept = Some(*token);
                Done::Nothing
            }
        }
    }

    fn change(&mut self, unit: &mut Unit<'_>, id: CustomerId, change: &Change, meta: &Meta) -> Done {
        let Some(user) = self.users.get(&id) else { return Done::Refused(Refusal::UnknownUser) };
        let is_taken = change.email.as_ref().is_some_and(|email| self.owner(email).is_some_and(|owner| owner != id));
        let old_email = user.email.clone();
        match user.change(change.clone(), is_taken) {
            Ok(None) => Done::User(Box::new(user.clone())),
            Ok(Some((user, event))) => {
                if change.password.is_some() {
                    self.ended_users.insert(id);
                }
                if user.email != old_email {
                    self.emails.remove(&old_email);
                }
                self.put(unit, user, event, meta)
            }
            Err(refusal) => Done::Refused(refusal),
        }
    }

    fn role(&mut self, unit: &mut Unit<'_>, id: CustomerId, role: Role, reason: &str, meta: &Meta) -> Done {
        let Some(user) = self.users.get(&id) else { return Done::Refused(Refusal::UnknownUser) };
        let was = user.role;
        match user.with_role(role, reason.to_owned(), self.admins) {
            Ok(None) => Done::User(Box::new(user.clone())),
            Ok(Some((user, event))) => {
                self.admins += i64::from(role == Role::Admin) - i64::from(was == Role::Admin);
                self.changed_roles.insert(id, role);
                self.put(unit, user, event, meta)
            }
            Err(refusal) => Done::Refused(refusal),
        }
    }

    /// Who has an address, however they spelled it.
    fn owner(&self, email: &str) -> Option<CustomerId> {
        domain::spellings(email).iter().find_map(|spelling| self.emails.get(spelling)).copied()
    }

    fn put(&mut self, unit: &mut Unit<'_>, user: User, event: Event, meta: &Meta) -> Done {
        let key = user.id.to_string();
        let new = New {
            stream: format!("user-{key}"),
            version: user.version,
            to: Some((topics::USER_EVENTS, key)),
            payload: event.encode(),
        };
        unit.append(meta, new);
        self.has_admin |= user.role == Role::Admin;
        self.emails.insert(user.email.clone(), user.id);
        self.changed_users.insert(user.id);
        self.users.insert(user.id, user.clone());
        Done::User(Box::new(user))
    }

    fn issue(&mut self, proof: Proof, token: &RefreshToken) -> Done {
        let Some(user) = self.users.get(&token.user_id).cloned() else { return Done::Refused(Refusal::UnknownUser) };
        match user.admits(proof) {
            Ok(()) => {
                self.keep(token.clone());
                Done::User(Box::new(user))
            }
            Err(refusal) => Done::Refused(refusal),
        }
    }

    fn rotate(&mut self, shown: &TokenHash, next: TokenHash, sealed: &[u8], holds: Duration) -> Done {
        let refused = Done::Refused(Refusal::InvalidRefreshToken);
        let Some(token) = self.tokens.get_mut(shown) else { return refused };
        if self.ended_families.contains(&token.family) || self.ended_users.contains(&token.user_id) {
            return refused;
        }
        let Some(user) = self.users.get(&token.user_id) else { return refused };
        match token.show(self.now) {
            Shown::Good => {
                token.used = true;
                token.successor = Some(Successor { exchanged: self.now, sealed: sealed.to_vec() });
                self.changed_tokens.insert(*shown);
                let (family, user_id, expires) = (token.family, token.user_id, self.now.plus(holds));
                let done = Done::User(Box::new(user.clone()));
                self.keep(RefreshToken { hash: next, family, user_id, expires, used: false, successor: None });
                done
            }
            Shown::Again => {
                let sealed = token.successor.as_ref().map(|successor| successor.sealed.clone());
                Done::Again(Box::new(user.clone()), sealed.unwrap_or_default())
            }
            Shown::Reused => {
                tracing::warn!(user.id = %token.user_id, "a refresh token was used twice; its family is revoked");
                self.ended_families.insert(token.family);
                refused
            }
            Shown::Expired => refused,
        }
    }

    fn keep(&mut self, token: RefreshToken) {
        self.changed_tokens.insert(token.hash);
        self.tokens.insert(token.hash, token);
    }

    async fn save(self, unit: &mut Unit<'_>) -> Result<(), Error> {
        let users: BTreeMap<_, _> = self.changed_users.iter().map(|id| (id, self.users[id].clone())).collect();
        let users: Vec<User> = users.into_values().collect();
        let tokens: Vec<RefreshToken> = self.changed_tokens.iter().map(|hash| self.tokens[hash].clone()).collect();
        let conn = unit.conn();
        store::save_users(conn, &users).await?;
        store::save_tokens(conn, &tokens).await?;
        for family in self.ended_families {
            store::drop_family(conn, family).await?;
        }
        for id in self.ended_users {
            store::drop_tokens_of(conn, id).await?;
        }
        if let Some(keys) = self.changed_keys
            && keys != self.keys
        {
            store::save_keys(conn, &self.keys, &keys).await?;
        }
        store::note_roles(conn, &self.changed_roles.into_iter().collect::<Vec<_>>(), self.now).await?;
        if let Some(token) = self.swept {
            store::drop_expired(conn, self.now).await?;
            store::drop_roles(conn, self.now.minus(token)).await?;
        }
        Ok(())
    }
}
