//! What holds of every log, whoever wrote it: positions, versions, ids, causes, effects, dead letters and progress.
//!
//! Never here: what a row means to its service. Causes cross from log to log, so they are kept here until all logs have been read,
//! and settled then; progress does too (`progress.rs`).

use std::collections::{HashMap, HashSet};

use super::{
    laws::{Id, Laws},
    progress::Journey,
    snapshot::{Entry, Snapshot, pages},
    value::{shown, text},
};

/// What was seen of all logs so far.
#[derive(Default)]
pub(super) struct Trails {
    pub messages: u64,
    /// The ids of all messages; sorted in the end.
    ids: Vec<u128>,
    /// The causes named in a service's log.
    causes: Vec<(&'static str, Vec<u128>)>,
    /// Per service, the newest position that was read.
    heads: HashMap<&'static str, i64>,
    journey: Journey,
}

/// What has been seen of one log.
struct Trail {
    service: &'static str,
    position: i64,
    /// The newest version of each stream, by its kind (a place in `kinds`) and id …
    versions: HashMap<(usize, u128), i64>,
    kinds: Vec<String>,
    /// … or by its name, where it is not about an id.
    named: HashMap<String, i64>,
    /// The cause whose effects are being read, with the kinds of effect it had.
    run: Option<(u128, u64)>,
    runs: Vec<(u128, u64)>,
    /// Kinds of effect, each a bit of a run.
    effects: Vec<(String, String)>,
    dead_letters: HashSet<String>,
}

impl Trails {
    /// Reads one log to the head of its snapshot: what holds of any log is checked here, the rest is `fold`'s.
    pub(super) async fn walk(
        &mut self,
        snapshot: &mut Snapshot,
        laws: &mut Laws,
        mut fold: impl FnMut(&mut Laws, &Entry),
    ) -> Result<(), sqlx::Error> {
        let mut trail = Trail::new(snapshot.service);
        self.journey.begin(snapshot).await?;
        let (ids, journey) = (&mut self.ids, &mut self.journey);
        ids.reserve_exact(usize::try_from(snapshot.head).unwrap_or(0));
        let walked = snapshot.log(0, |entry| {
            ids.push(entry.id);
            journey.take(&entry);
            trail.take(laws, &entry);
            if !entry.kind.starts_with("skald.DeadLetter") {
                fold(laws, &entry);
            }
        });
        walked.await?;
        laws.check(Id::PositionsGapless, trail.position == snapshot.head, || {
            format!("{}: the head says {}, the newest row is {}", snapshot.service, snapshot.head, trail.position)
        });
        self.messages += u64::try_from(trail.position).unwrap_or(0);
        self.read_dead_letters(snapshot, laws, std::mem::take(&mut trail.dead_letters)).await?;
        self.journey.read(snapshot, laws).await?;
        self.causes.push((snapshot.service, trail.finish(laws)));
        self.heads.insert(snapshot.service, snapshot.head);
        Ok(())
    }

    async fn read_dead_letters(
        &self,
        snapshot: &mut Snapshot,
        laws: &mut Laws,
        mut in_log: HashSet<String>,
    ) -> Result<(), sqlx::Error> {
        let service = snapshot.service;
        pages!(
            snapshot,
            (String, String, String, Option<i64>),
            "SELECT stream, kind, error, solved_us FROM dead_letters WHERE stream > $1 ORDER BY stream LIMIT $2",
            String::new(),
            |(stream, kind, error, solved)| {
                laws.check(Id::DeadLettersMatchLog, in_log.remove(&stream), || format!("{service}: {stream} is not in the log"));
                laws.check(Id::NoDeadLetter, solved.is_some(), || format!("{service}: {stream}, a {kind}: {error}"));
            }
        );
        for stream in in_log {
            laws.check(Id::DeadLettersMatchLog, false, || format!("{service}: {stream} has no row"));
        }
        Ok(())
    }

    /// Reads what a log has had appended since it was read: the causes of what others did meanwhile.
    pub(super) async fn read_newer(&mut self, snapshot: &mut Snapshot, mut take: impl FnMut(&Entry)) -> Result<(), sqlx::Error> {
        let Some(after) = self.heads.get(snapshot.service).copied() else { return Ok(()) };
        self.journey.begin(snapshot).await?;
        let (ids, journey) = (&mut self.ids, &mut self.journey);
        let read = snapshot.log(after, |entry| {
            ids.push(entry.id);
            journey.take(&entry);
            take(&entry);
        });
        read.await
    }

    /// Settles what crosses from log to log; every log has been read.
    pub(super) fn finish(mut self, laws: &mut Laws) {
        self.ids.sort_unstable();
        let mut before = None;
        for id in &self.ids {
            laws.check(Id::IdsUnique, before.replace(id) != Some(id), || format!("message {}", shown(*id)));
        }
        for (service, causes) in &self.causes {
            for cause in causes {
                let exists = self.ids.binary_search(cause).is_ok();
                laws.check(Id::CausesExist, exists, || format!("{service}: cause {}", shown(*cause)));
            }
        }
        self.journey.finish(laws);
    }
}

impl Trail {
    fn new(service: &'static str) -> Self {
        Self {
            service,
            position: 0,
            versions: HashMap::new(),
            kinds: Vec::new(),
            named: HashMap::new(),
            run: None,
            runs: Vec::new(),
            effects: Vec::new(),
            dead_letters: HashSet::new(),
        }
    }

    fn take(&mut self, laws: &mut Laws, entry: &Entry) {
        let (service, position) = (self.service, entry.position);
        laws.check(Id::PositionsGapless, position == self.position + 1, || {
            format!("{service}: row {position} follows row {}", self.position)
        });
        self.position = position;
        laws.check(Id::PayloadsReadable, entry.data.is_object(), || format!("{service}: row {position} is not JSON"));

        let newest = match entry.subject() {
            Some((kind, id)) => {
                let kind = place(&mut self.kinds, |known| known == kind, || kind.to_owned());
                self.versions.entry((kind, id)).or_insert(0)
            }
            None => self.named.entry(entry.stream.clone()).or_insert(0),
        };
        laws.check(Id::VersionsGapless, entry.version == *newest + 1, || {
            format!("{service}: version {} of {} follows version {newest}", entry.version, entry.stream)
        });
        *newest = entry.version;

        if entry.kind == "skald.DeadLetter" {
            self.dead_letters.insert(entry.stream.clone());
        }
        if let Some(cause) = entry.cause {
            self.effect(laws, cause, entry);
        }
    }

    /// One message has each kind of effect once. Its effects stand together in the log, so that only runs are kept of them.
    fn effect(&mut self, laws: &mut Laws, cause: u128, entry: &Entry) {
        // A void that finds a call open settles it and goes on to the next: calls are told apart by what they ask.
        let operation = if entry.kind == "payment.CallIntended" { text(&entry.data, "operation") } else { "" };
        let (kind, detail) = (entry.kind.as_str(), operation);
        let known = |known: &(String, String)| known.0 == kind && known.1 == detail;
        let effect = place(&mut self.effects, known, || (kind.to_owned(), detail.to_owned()));
        // More kinds than bits are no log of ours; the payloads are offenders then.
        let bit = 1 << effect.min(63);
        match &mut self.run {
            Some((of, effects)) if *of == cause => {
                laws.check(Id::EffectsOnce, *effects & bit == 0, || {
                    format!("{}: {} twice from message {}", self.service, entry.kind, shown(cause))
                });
                *effects |= bit;
            }
            run => self.runs.extend(run.replace((cause, bit))),
        }
    }

    /// The causes of the log, each once.
    fn finish(mut self, laws: &mut Laws) -> Vec<u128> {
        self.runs.extend(self.run);
        self.runs.sort_unstable();
        let mut causes: Vec<u128> = Vec::with_capacity(self.runs.len());
        let mut before = 0;
        for (cause, effects) in self.runs {
            let again = causes.last() == Some(&cause);
            laws.check(Id::EffectsOnce, !(again && before & effects != 0), || {
                format!("{}: the effects of message {} twice", self.service, shown(cause))
            });
            before = if again { before | effects } else { effects };
            if !again {
                causes.push(cause);
            }
        }
        causes
    }
}

/// Where something stands in a short list, to which it is added if it is new.
fn place<T>(list: &mut Vec<T>, known: impl Fn(&T) -> bool, new: impl FnOnce() -> T) -> usize {
    list.iter().position(known).unwrap_or_else(|| {
        list.push(new());
        list.len() - 1
    })
}
