//! Model 3: a log, two replicas of its relay of which one may be a zombie, one partition of a broker, and two members of a consumer
//! group that may both believe that the partition is theirs.
//!
//! After `events/log/src/{chain,relay}.rs` and `events/bus/src/kafka`. The partition is kept from the consumer's progress on: what is
//! before it, nobody reads again with any effect.

use contract::Fault;
use skald_saga::Invariant;
use stateright::{Model, Property};

use crate::explorer::Proven;

/// Rows that the log can have, and records that wait in the partition.
const ROWS_MAX: usize = 4;
const WAITING_MAX: usize = 6;

/// The bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bus {
    pub rows: u8,
    pub waiting: usize,
    /// The broker loses one record that it had acknowledged, and an operator rewinds the relay when he likes.
    pub broker_loses: bool,
}

/// Rows up to here are in the partition, and known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    arrived: u8,
    reported: u8,
}

/// Records that a member has read and not handled yet; 0 where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    records: [u8; 2],
    /// Nobody has moved the progress since it was read.
    is_fresh: bool,
    /// Its progress is committed and its effects are not: only where that is the fault.
    is_claimed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    /// Rows in the log.
    head: u8,
    checkpoint: u8,
    /// The newest row that ever was in the partition.
    published: u8,
    /// Who holds the lease; a relay that has a session and not the lease is a zombie.
    leader: Option<usize>,
    relays: [Option<Session>; 2],
    waiting: [u8; WAITING_MAX],
    members: [Option<Batch>; 2],
    /// The newest row that was handled as the next one.
    seen: u8,
    /// How often each row had its effects.
    effects: [u8; ROWS_MAX],
    /// Rows that wait for the one before them, one bit each.
    parked: u8,
    has_lost: bool,
    broken: Option<Invariant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Append,
    Lead(usize),
    Arrive(usize),
    Report(usize),
    Save(usize),
    /// The process dies, or a delivery fails: its producer is thrown away.
    StopRelay(usize),
    /// Reads so many records from the progress on.
    Fetch(usize, usize),
    Handle(usize),
    StopMember(usize),
    LoseRecord(usize),
    Rewind,
}

impl Batch {
    fn length(&self) -> usize {
        self.records.iter().filter(|record| **record != 0).count()
    }
}

impl Line {
    const NEW: Self = Self {
        head: 0,
        checkpoint: 0,
        published: 0,
        leader: None,
        relays: [None; 2],
        waiting: [0; WAITING_MAX],
        members: [None; 2],
        seen: 0,
        effects: [0; ROWS_MAX],
        parked: 0,
        has_lost: false,
        broken: None,
    };

    fn length(&self) -> usize {
        self.waiting.iter().take_while(|record| **record != 0).count()
    }

    fn take(&mut self, index: usize) -> u8 {
        let taken = self.waiting[index];
        self.waiting.copy_within(index + 1.., index);
        self.waiting[WAITING_MAX - 1] = 0;
        taken
    }

    fn save(&mut self, relay: usize) -> Option<()> {
        let session = self.relays[relay]?;
        let early = Fault::CheckpointBeforeReport.is_planted();
        let reached = if early { self.head } else { session.reported };
        let leads = self.leader == Some(relay);
        if leads || Fault::ZombieUnfenced.is_planted() {
            if !leads && reached != self.checkpoint {
                self.broken = Some(Invariant::CheckpointByLeader);
            }
            self.checkpoint = reached;
        } else {
            self.relays[relay] = None;
        }
        Some(())
    }

    /// One transaction: the progress moves by compare-and-set, and every record finds its place.
    fn handle(&mut self, member: usize) -> Option<()> {
        let batch = self.members[member].take()?;
        if batch.is_claimed {
            self.place(batch.records);
            return Some(());
        }
        if !batch.is_fresh {
            return Some(());
        }
        for _ in 0..batch.length() {
            self.take(0);
        }
        for other in self.members.iter_mut().flatten() {
            other.is_fresh = false;
        }
        if Fault::ProgressBeforeEffects.is_planted() {
            self.members[member] = Some(Batch { is_claimed: true, ..batch });
        } else {
            self.place(batch.records);
        }
        Some(())
    }

    fn place(&mut self, records: [u8; 2]) {
        for row in records.into_iter().filter(|row| *row != 0) {
            let (is_repeat, is_gap) = (row <= self.seen, row > self.seen + 1);
            if is_repeat && !Fault::RepeatsAreHandled.is_planted() {
                continue;
            }
            if is_gap && !Fault::GapsAreSkipped.is_planted() {
                self.parked |= 1 << row;
                continue;
            }
            self.effect(row);
            while self.parked & (1 << (self.seen + 1)) != 0 {
                self.effect(self.seen + 1);
            }
        }
        // A row that came again while it was parked has been handled by now.
        self.parked &= !((2u8 << self.seen) - 1);
    }

    fn effect(&mut self, row: u8) {
        let count = &mut self.effects[usize::from(row) - 1];
        *count += 1;
        if *count > 1 {
            self.broken = Some(Invariant::EffectsOnce);
        }
        if row > self.seen + 1 {
            self.broken = Some(Invariant::HandledInOrder);
        }
        self.seen = self.seen.max(row);
    }

    fn check(&self) -> Option<Invariant> {
        let handled = self.effects[..usize::from(self.seen)].iter().all(|count| *count > 0);
        let checks = [(Invariant::NoneSkipped, handled), (Invariant::CheckpointNotAhead, self.checkpoint <= self.published)];
        self.broken.or_else(|| checks.into_iter().find(|(_, holds)| !holds).map(|(invariant, _)| invariant))
    }
}

impl Model for Bus {
    type State = Line;
    type Action = Action;

    fn init_states(&self) -> Vec<Line> {
        vec![Line::NEW]
    }

    fn actions(&self, line: &Line, actions: &mut Vec<Action>) {
        if self.broken(line).is_some() {
            return;
        }
        actions.push(Action::Append);
        for of in 0..2 {
            actions.extend([Action::Lead(of), Action::Arrive(of), Action::Report(of), Action::Save(of), Action::StopRelay(of)]);
            actions.extend([Action::Fetch(of, 1), Action::Fetch(of, 2), Action::Handle(of), Action::StopMember(of)]);
        }
        if self.broker_loses {
            actions.extend((0..line.length()).map(Action::LoseRecord));
            actions.push(Action::Rewind);
        }
    }

    fn next_state(&self, before: &Line, action: Action) -> Option<Line> {
        let mut line = *before;
        match action {
            Action::Append => line.head = (line.head + 1).min(self.rows),
            Action::Lead(relay) => {
                line.leader = Some(relay);
                line.relays[relay] = Some(Session { arrived: line.checkpoint, reported: line.checkpoint });
            }
            Action::Arrive(relay) => {
                let session = line.relays[relay].as_mut().filter(|session| session.arrived < before.head)?;
                let free = before.length();
                if free >= self.waiting {
                    return None;
                }
                session.arrived += 1;
                line.waiting[free] = session.arrived;
                line.published = line.published.max(session.arrived);
            }
            Action::Report(relay) => {
                let session = line.relays[relay].as_mut().filter(|session| session.reported < session.arrived)?;
                session.reported += 1;
            }
            Action::Save(relay) => line.save(relay)?,
            Action::StopRelay(relay) => line.relays[relay] = None,
            Action::Fetch(member, count) => {
                if line.length() < count || line.members[member].is_some() {
                    return None;
                }
                let records = [line.waiting[0], if count == 2 { line.waiting[1] } else { 0 }];
                line.members[member] = Some(Batch { records, is_fresh: true, is_claimed: false });
            }
            Action::Handle(member) => line.handle(member)?,
            Action::StopMember(member) => line.members[member] = None,
            Action::LoseRecord(index) => {
                if line.has_lost {
                    return None;
                }
                line.take(index);
                line.has_lost = true;
                // A member that had read it goes on from where the others are: the model keeps no offsets.
                for batch in line.members.iter_mut().flatten().filter(|batch| index < batch.length()) {
                    batch.is_fresh = false;
                }
            }
            Action::Rewind => (line.checkpoint, line.leader) = (line.checkpoint.min(line.seen), None),
        }
        (line != *before).then_some(line)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always("no invariant is broken", |model: &Self, line: &Line| model.broken(line).is_none())]
    }
}

impl Proven for Bus {
    fn broken(&self, line: &Line) -> Option<Invariant> {
        line.check()
    }

    fn is_end(&self, line: &Line) -> bool {
        line.head == self.rows && line.seen == self.rows && line.parked == 0
    }

    /// What a broker has lost only an operator's rewind brings back.
    fn is_own(&self, action: Action) -> bool {
        !matches!(action, Action::LoseRecord(_) | Action::StopRelay(_) | Action::StopMember(_))
    }

    fn say(&self, before: &Line, action: Action, after: &Line) -> String {
        let who = |relay: usize| match before.leader == Some(relay) {
            true => format!("relay {relay}"),
            false => format!("relay {relay}, which does not lead,"),
        };
        match action {
            Action::Append => format!("row {} is committed", after.head),
            Action::Lead(relay) => {
                format!("relay {relay} takes the lead and begins after the checkpoint, row {}", before.checkpoint)
            }
            Action::Arrive(relay) => format!("a row of {} comes to the broker, which holds {:?} now", who(relay), waiting(after)),
            Action::Report(relay) => format!("the broker reports a row to relay {relay}"),
            Action::Save(relay) => format!("{} saves the checkpoint: row {}", who(relay), after.checkpoint),
            Action::StopRelay(relay) => format!("relay {relay} dies"),
            Action::Fetch(member, count) => format!("member {member} reads {count} of {:?}", waiting(before)),
            Action::Handle(member) => {
                format!("member {member} commits its batch; rows up to {} are handled, {:?} times", after.seen, after.effects)
            }
            Action::StopMember(member) => format!("member {member} dies"),
            Action::LoseRecord(_) => format!("the broker loses a record; it holds {:?} now", waiting(after)),
            Action::Rewind => format!("an operator rewinds to row {}", after.checkpoint),
        }
    }
}

fn waiting(line: &Line) -> &[u8] {
    &line.waiting[..line.length()]
}
