//! Group commit: whatever has gathered in the queue is decided in memory and appended in one transaction.
//!
//! The order inside a transaction is always the same, so that replicas never deadlock: progress; the handler's rows, sorted by
//! key; idempotency keys, sorted; then the head and the log. PostgreSQL writes new rows together with these two (ADR 0016). One that
//! loses leaves the batch, and never fails its neighbours.

use std::{collections::HashMap, sync::Arc, time::Duration};

use contract::{Fault, Message, Timestamp, dead_letter::Cause};
use tokio::sync::mpsc;

use crate::{
    Answer, Claim, Conn, Database, Delivered, Error, Handled, Handler, IdempotencyKey, Item, Job, KEYS_KEPT, Log, Poison, Stored,
    Todo, Unit, Verdict,
    append::append,
    arrivals::{Arrivals, claim},
    backoff, bounds,
    db::Owned,
    dead_letter::{self, Letter},
    for_update,
    observe::Story,
    on, read,
    unit::Told,
    write_many,
    writer::{Entry, Outcome},
};

/// How often a batch of one is decided anew after it lost to a concurrent change.
const CONFLICTS_MAX: u32 = 5;
/// How often the outcome of a commit without an answer is looked for, at most.
const SETTLE_TRIES: u32 = 8;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_CAP: Duration = Duration::from_secs(2);
/// How long to wait for company, where a commit is dear and the last one was for more than one job: under load this makes few commits
/// of many, and whoever is alone never waits. Twice as long where another replica has half of the work.
const GATHER: Duration = Duration::from_millis(5);
/// Entries that are company enough.
const GATHERED_ENOUGH: usize = 64;
/// Idempotency keys deleted in one transaction.
const FORGOTTEN_MAX: i64 = 1_000;
/// The row among the keys that says how far they are forgotten. Real ones are hashes of 32 bytes.
const FORGOTTEN_TO: &[u8] = b"forgotten to";

pub(crate) struct Task<H: Handler> {
    pub log: Log,
    pub connection: Option<Owned>,
    pub handler: Arc<H>,
    pub entries: mpsc::Receiver<Entry<H>>,
    pub batch_max: usize,
}

impl<H: Handler> Task<H> {
    pub(crate) async fn run(mut self) {
        let (mut held, mut was_shared) = (None, false);
        while let Some(batch) = self.gather(&mut held, &mut was_shared).await {
            self.commit(batch).await;
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(service = self.log.service(), %error, "the writer's connection did not close cleanly");
        }
    }

    /// What has gathered, up to the batch's bounds. The entry that would pass one is held for the next batch, where it is the first, and
    /// taken however large it is. `was_shared` is whether the last batch was of more than one job. An empty batch is only to find out
    /// whether commits come through again.
    async fn gather(&mut self, held: &mut Option<Entry<H>>, was_shared: &mut bool) -> Option<Vec<Entry<H>>> {
        let first = match held.take() {
            Some(entry) => entry,
            None => tokio::select! {
                biased;
                entry = self.entries.recv() => entry?,
                () = self.log.writing().asked() => return Some(Vec::new()),
            },
        };
        if *was_shared && matches!(self.log.database(), Database::Postgres(_)) && self.entries.len() < GATHERED_ENOUGH {
            // In real time: nothing is decided by it, and a clock that a test has stopped must not stop commits.
            tokio::time::sleep(if self.log.has_peer() { GATHER * 2 } else { GATHER }).await;
        }
        let (mut jobs, mut bytes) = first.weight();
        let mut batch = vec![first];
        while let Ok(entry) = self.entries.try_recv() {
            let weight = entry.weight();
            if jobs + weight.0 > self.batch_max || bytes + weight.1 > self.log.env().memory().batch() {
                *held = Some(entry);
                break;
            }
            (jobs, bytes) = (jobs + weight.0, bytes + weight.1);
            batch.push(entry);
        }
        *was_shared = jobs > 1;
        Some(batch)
    }

    async fn commit(&mut self, batch: Vec<Entry<H>>) {
        match self.settled(&batch).await {
            Ok(outcomes) => self.reply(batch, outcomes),
            Err(error) if batch.len() > 1 && (error.verdict() == Verdict::Poison || matches!(error, Error::Conflict(_))) => {
                tracing::debug!(service = self.log.service(), %error, entries = batch.len(), "batch rolled back; trying each by itself");
                for entry in batch {
                    self.commit_alone(entry).await;
                }
            }
            Err(Error::Conflict(_)) => {
                for entry in batch {
                    self.commit_alone(entry).await;
                }
            }
            Err(error) => {
                for entry in batch {
                    entry.fail(error.clone());
                }
            }
        }
    }

    async fn commit_alone(&mut self, entry: Entry<H>) {
        let batch = [entry];
        let mut conflicts = 0;
        let settled = loop {
            match self.settled(&batch).await {
                Err(Error::Conflict(_)) if conflicts < CONFLICTS_MAX => conflicts += 1,
                settled => break settled,
            }
        };
        let [entry] = batch;
        match settled {
            Ok(outcomes) => self.reply(vec![entry], outcomes),
            Err(error) => entry.fail(error),
        }
    }

    fn reply(&self, batch: Vec<Entry<H>>, outcomes: Vec<Outcome<H::Done>>) {
        for (entry, outcome) in batch.into_iter().zip(outcomes) {
            match (entry, outcome) {
                (Entry::Request { reply, .. }, Outcome::Answer(answer)) => drop(reply.send(Ok(answer))),
                (Entry::Delivery { reply, .. } | Entry::Forget { reply, .. }, Outcome::Committed(done)) => {
                    drop(reply.send(Ok(Delivered::Committed)));
                    self.handler.committed(done);
                }
                (Entry::Delivery { reply, .. }, Outcome::Lost) => drop(reply.send(Ok(Delivered::Lost))),
                (Entry::Request { .. }, Outcome::Committed(_) | Outcome::Lost)
                | (Entry::Delivery { .. }, Outcome::Answer(_))
                | (Entry::Forget { .. }, Outcome::Answer(_) | Outcome::Lost) => {
                    unreachable!("outcomes are made in the order of the entries")
                }
            }
        }
    }

    /// One attempt, with its outcome known, and told to who asks how the writer does. Plans that no longer fit their tables are made anew.
    async fn settled(&mut self, batch: &[Entry<H>]) -> Result<Vec<Outcome<H::Done>>, Error> {
        self.log.writing().begins(self.log.env().now());
        let mut settled = self.attempt(batch).await;
        if settled.as_ref().is_err_and(Error::is_stale_plan) {
            settled = self.attempt(batch).await;
        }
        self.log.writing().ended(settled.as_ref().err());
        if let Err(error) = &settled {
            self.log.tell_damage(error);
        }
        settled
    }

    /// One attempt, with its outcome known: a commit without an answer is looked up, never decided anew.
    async fn attempt(&mut self, batch: &[Entry<H>]) -> Result<Vec<Outcome<H::Done>>, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = self.log.database().connect_to_write().await?;
                self.log.forget();
                connection
            }
        };
        let preparing = async {
            connection.begin().await?;
            self.prepare(&mut connection, batch).await
        };
        let prepared = match self.log.in_time(preparing).await {
            Ok(prepared) => prepared,
            Err(error) => {
                // A connection that can't even roll back is thrown away; the server rolls back for it.
                if error.spares_connection() && self.log.in_time(async { Ok(connection.end("ROLLBACK").await?) }).await.is_ok() {
                    self.connection = Some(connection);
                }
                return Err(error);
            }
        };
        match self.log.in_time(async { Ok(self.end(&mut connection).await?) }).await {
            Ok(()) => self.connection = Some(connection),
            Err(error) => {
                // PostgreSQL says of a deferred check or a serialization failure that it did not commit. Of everything else, also its
                // own shutdown, it may say so when the commit is durable already.
                let refused = matches!(error, Error::Conflict(_) | Error::Refused(_)) && matches!(connection, Owned::Postgres(_));
                drop(connection);
                if refused {
                    return Err(error);
                }
                tracing::warn!(service = self.log.service(), %error, "a commit got no answer; looking for its rows");
                let Some(first) = prepared.rows.first() else { return Err(Error::OutcomeUnknown) };
                if !self.is_committed(first).await? {
                    return Err(error);
                }
            }
        }
        let story = prepared.story.map(|story| (story, prepared.rows.clone()));
        self.log.committed(prepared.rows);
        prepared.arrivals.tell(&self.log);
        prepared.once_committed.into_iter().for_each(|tell| tell());
        if let Some((story, rows)) = story {
            story.tell(&self.log, &rows);
        }
        Ok(prepared.outcomes)
    }

    async fn end(&self, connection: &mut Owned) -> Result<(), sqlx::Error> {
        let commit = connection.end("COMMIT");
        match self.log.env().disk() {
            None => commit.await,
            Some(disk) => disk.commit(Box::pin(commit)).await,
        }
    }

    /// Whether `row` is in the log, asked under the head's lock on a new connection: whoever committed is done then.
    async fn is_committed(&self, row: &Message) -> Result<bool, Error> {
        let until = self.log.env().now().plus(bounds::SETTLE);
        for attempt in (1..=SETTLE_TRIES).take_while(|_| self.log.env().now() < until) {
            match self.log.in_time(self.look_up(row.position)).await {
                Ok(found) => return Ok(found == Some(row.id.0)),
                Err(error) => {
                    tracing::warn!(service = self.log.service(), %error, attempt, "can't look up a commit's outcome yet")
                }
            }
            let env = self.log.env();
            env.sleep(backoff(env, attempt, RETRY_FIRST, RETRY_CAP)).await;
        }
        Err(Error::OutcomeUnknown)
    }

    async fn look_up(&self, position: i64) -> Result<Option<uuid::Uuid>, Error> {
        let mut connection = self.log.database().connect_to_write().await?;
        connection.begin().await?;
        // PostgreSQL needs the row's lock; SQLite's transaction is one, and a full disk must not stop the look.
        let lock = for_update(&connection.conn());
        on!(&mut connection.conn(), |c| {
            sqlx::QueryBuilder::<DB>::new("SELECT position FROM head").push(lock).build().execute(c).await.map(drop)
        })?;
        let found = on!(&mut connection.conn(), |c| {
            sqlx::query_scalar::<DB, uuid::Uuid>("SELECT id FROM log WHERE position = $1").bind(position).fetch_optional(c).await
        });
        connection.end("ROLLBACK").await?;
        Ok(found?)
    }

    /// Everything of a transaction but its end.
    async fn prepare<'b>(&self, connection: &mut Owned, batch: &'b [Entry<H>]) -> Result<Prepared<'b, H::Done>, Error> {
        let is_heard = self.log.env().observer().is_some();
        let mut unit = Unit::new(connection.conn(), self.log.env());
        let (lost, chains) = claim(&mut unit, batch).await?;
        if Fault::ProgressBeforeEffects.is_planted() {
            on!(unit.conn(), |c| sqlx::query::<DB>("COMMIT").execute(c).await.map(drop))?;
            on!(unit.conn(), |c| sqlx::query::<DB>("BEGIN").execute(c).await.map(drop))?;
        }
        let stored = stored_answers(&mut unit, batch).await?;

        let mut arrivals = Arrivals::default();
        let deliveries = batch.iter().zip(&lost).filter_map(|(entry, lost)| match entry {
            Entry::Delivery { claim, items, .. } if !lost => Some((claim, items.as_slice())),
            _ => None,
        });
        let deliveries: Vec<(&Claim, &[Item<H::Work>])> = deliveries.collect();
        let placed = arrivals.place(&mut unit, &self.log, chains, &deliveries).await?;
        let mut placed = deliveries.iter().map(|(claim, _)| *claim).zip(placed);

        let mut jobs: Vec<&Job<H::Work>> = Vec::new();
        let mut from_message = Vec::new();
        let mut letters = Vec::new();
        let (mut handled, mut told) = (Vec::new(), Vec::new());
        for (entry, lost) in batch.iter().zip(&lost) {
            match entry {
                Entry::Request { job, key, .. } => {
                    if !key.is_some_and(|key| stored.contains_key(&key.key)) {
                        jobs.push(job);
                        from_message.push(None);
                    }
                }
                Entry::Delivery { .. } if !lost => {
                    let (claim, items) = placed.next().expect("placed above");
                    let before = jobs.len();
                    for (item, forged) in items {
                        let poison = match (forged, &item.todo) {
                            (Some(why), _) => Poison::new(Cause::Forged, why),
                            (None, Todo::Handle(job)) => {
                                if is_heard {
                                    told.extend(Handled::of(claim, item.offset, &item.message, job.meta.trace.clone(), None));
                                }
                                jobs.push(job);
                                from_message.push(Some((claim, item)));
                                continue;
                            }
                            (None, Todo::Nothing) => continue,
                            (None, Todo::SetAside(poison)) => poison.clone(),
                        };
                        if is_heard {
                            told.extend(Handled::set_aside(claim, item.offset, &item.message, poison.cause, unit.now()));
                        }
                        letters.push(Letter { claim, offset: item.offset, message: &item.message, poison });
                    }
                    handled.push(jobs.len() - before);
                }
                Entry::Delivery { .. } => {}
                Entry::Forget { before, passed, .. } => forget(&mut unit, *before, *passed).await?,
            }
        }

        let mut done = Vec::new();
        if !jobs.is_empty() {
            done = self.handler.handle(&mut unit, &jobs).await?;
            assert_eq!(done.len(), jobs.len(), "a handler gives one result a job");
        }
        for (index, why) in std::mem::take(&mut unit.refused) {
            let (claim, item) = from_message[index].expect("only what came as a message can be refused as one");
            let poison = Poison::new(Cause::Refused, why);
            for refused in told.iter_mut().filter(|handled| handled.trace == jobs[index].meta.trace) {
                refused.error = Some(Cause::Refused.as_str());
            }
            letters.push(Letter { claim, offset: item.offset, message: &item.message, poison });
        }
        letters.iter().for_each(|letter| arrivals.set_aside(letter.poison.cause));
        if !letters.is_empty() {
            dead_letter::keep(&mut unit, letters).await?;
        }

        let mut answers: Vec<(IdempotencyKey, Stored)> = Vec::new();
        let (mut done, mut handled) = (done.into_iter(), handled.into_iter());
        let outcomes = batch
            .iter()
            .zip(lost)
            .map(|(entry, lost)| match entry {
                // It may be here more than once: somebody asked, hung up and asked again.
                Entry::Request { key, .. } => Outcome::Answer(match key.and_then(|key| Some((key, stored.get(&key.key)?))) {
                    Some((key, stored)) if stored.fingerprint == key.fingerprint => Answer::Repeated(stored.clone()),
                    Some(_) => Answer::KeyReused,
                    None => {
                        let done = done.next().expect("counted above");
                        if !Fault::IdempotencyKeyUnused.is_planted() {
                            answers.extend(key.and_then(|key| Some((key, self.handler.answer(&done)?))));
                        }
                        Answer::Done(done)
                    }
                }),
                Entry::Delivery { .. } if lost => Outcome::Lost,
                Entry::Forget { .. } => Outcome::Committed(Vec::new()),
                Entry::Delivery { .. } => {
                    let handled = handled.next().expect("counted above");
                    Outcome::Committed(done.by_ref().take(handled).collect())
                }
            })
            .collect();

        answers.sort_by_key(|(key, _)| key.key);
        if !answers.is_empty() {
            let now_us = unit.now().0;
            write_many!(
                &mut unit,
                "INSERT INTO idempotency (key, fingerprint, status, location, body, time_us)",
                &answers,
                |r| [
                    r.0.key.to_vec(),
                    r.0.fingerprint.to_vec(),
                    i64::from(r.1.status),
                    r.1.location.as_deref(),
                    r.1.body.as_str(),
                    now_us
                ],
                ""
            )?;
        }
        let spans = std::mem::take(&mut unit.spans);
        let story = is_heard.then(|| Story::new(unit.now(), &unit.rows, told, Story::requests(batch), spans));
        let rows = append(&mut unit).await?;
        if batch.is_empty() {
            touch(&mut unit).await?;
        }
        let once_committed = std::mem::take(&mut unit.once_committed);
        Ok(Prepared { outcomes, rows, arrivals, story, once_committed })
    }
}

/// A transaction that only lacks its COMMIT.
struct Prepared<'b, D> {
    outcomes: Vec<Outcome<D>>,
    rows: Vec<Arc<Message>>,
    arrivals: Arrivals,
    story: Option<Story<'b>>,
    once_committed: Vec<Told>,
}

/// Writes something that means nothing, so that the commit needs the head's lock and room on the disk.
async fn touch(unit: &mut Unit<'_>) -> Result<(), Error> {
    // SQLite leaves a page alone that stays as it is.
    let version = i32::from(unit.env().random() as u16);
    match unit.conn() {
        Conn::Postgres(c) => sqlx::query("UPDATE head SET position = position").execute(&mut **c).await.map(drop)?,
        Conn::Sqlite(c) => {
            sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {version}"))).execute(&mut **c).await.map(drop)?
        }
    }
    Ok(())
}

/// Deletes old idempotency keys, a bounded number at a time. How far that has come stands among them, and moves hardly faster than time
/// has `passed`: after a leap of the clock by two days a key is still as old as it is. What a clock that was behind has put before that
/// place stays.
async fn forget(unit: &mut Unit<'_>, before: Timestamp, passed: Duration) -> Result<(), Error> {
    type Row = (Option<i64>, Option<i64>);
    let (came, oldest): Row = on!(unit.conn(), |c| {
        sqlx::query_as::<DB, Row>(
            "SELECT (SELECT time_us FROM idempotency WHERE key = $1), (SELECT time_us FROM idempotency ORDER BY time_us LIMIT 1)",
        )
        .bind(FORGOTTEN_TO)
        .fetch_one(c)
        .await
    })?;
    // The first time nobody knows how old the oldest is.
    let first = oldest.map_or(before, |oldest| before.min(Timestamp(oldest).minus(KEYS_KEPT)));
    let from = came.map_or(first, Timestamp);
    // A service that was off for long catches up with a quarter of its time.
    let to = before.min(from.plus(passed * 5 / 4)).max(from);
    let forgotten = on!(unit.conn(), |c| sqlx::query::<DB>(
        "DELETE FROM idempotency WHERE key IN \
         (SELECT key FROM idempotency WHERE time_us >= $1 AND time_us < $2 AND key <> $3 ORDER BY time_us LIMIT $4)"
    )
    .bind(from.0)
    .bind(to.0)
    .bind(FORGOTTEN_TO)
    .bind(FORGOTTEN_MAX)
    .execute(c)
    .await
    .map(|done| done.rows_affected()))?;
    let left: Option<i64> = match forgotten == FORGOTTEN_MAX as u64 {
        true => on!(unit.conn(), |c| sqlx::query_scalar::<DB, i64>(
            "SELECT time_us FROM idempotency WHERE time_us >= $1 AND time_us < $2 AND key <> $3 ORDER BY time_us LIMIT 1"
        )
        .bind(from.0)
        .bind(to.0)
        .bind(FORGOTTEN_TO)
        .fetch_optional(c)
        .await)?,
        false => None,
    };
    let to = left.map_or(to, Timestamp);
    on!(unit.conn(), |c| sqlx::query::<DB>(
        "INSERT INTO idempotency (key, fingerprint, status, body, time_us) VALUES ($1, $1, 0, '', $2) \
         ON CONFLICT (key) DO UPDATE SET time_us = excluded.time_us"
    )
    .bind(FORGOTTEN_TO)
    .bind(to.0)
    .execute(c)
    .await
    .map(drop))?;
    Ok(())
}

/// The answers that the batch's idempotency keys already have.
async fn stored_answers<H: Handler>(unit: &mut Unit<'_>, batch: &[Entry<H>]) -> Result<HashMap<[u8; 32], Stored>, Error> {
    let mut keys: Vec<Vec<u8>> = batch
        .iter()
        .filter_map(|entry| match entry {
            Entry::Request { key: Some(key), .. } => Some(key.key.to_vec()),
            _ => None,
        })
        .collect();
    keys.sort();
    let found = read::stored(unit.conn(), &keys).await?;
    Ok(found.into_iter().filter_map(|(key, stored)| Some((key.try_into().ok()?, stored))).collect())
}
