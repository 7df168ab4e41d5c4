//! One run of a saga with one trouble: participants made from the rows, messages delivered as the law says.
//!
//! Never here: which runs there are. From here the flow goes back to `laws.rs` with the law that broke, if one did.

use std::fmt::Write;

use crate::{
    Decision, Invariant, Kind, Saga, Step, Word,
    laws::{Broken, Delivery, Trouble},
};

/// Rounds after which a run goes nowhere.
const ROUNDS_MAX: usize = 64;
/// How often an answer that is never given up does not come.
const SILENT_ROUNDS: usize = 3;

/// What has become of a step at its participant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Untouched,
    Done,
    Refused,
    /// Compensated: a tombstone refuses what comes late.
    Ended,
}

pub(super) struct Run<S: Saga> {
    trouble: Trouble,
    delivery: Delivery<S::Input>,
    state: S::State,
    parts: Vec<Part>,
    /// As the log keeps it: from, input, to.
    history: Vec<[&'static str; 3]>,
    replies: Vec<S::Input>,
    /// Replies and commands that come when the saga has gone on without them.
    late_replies: Vec<S::Input>,
    late_commands: Vec<usize>,
    silent: usize,
    has_crashed: bool,
    dialogue: String,
}

type Held = Result<(), Invariant>;
type Row<S> = Step<<S as Saga>::State, <S as Saga>::Input>;

impl<S: Saga> Run<S> {
    pub(super) fn new(trouble: Trouble, delivery: Delivery<S::Input>) -> Self {
        let row = |row: usize| S::STEPS[row].name;
        let dialogue = match trouble {
            Trouble::None => format!("{}, {delivery:?}:\n", S::NAME),
            Trouble::Refused(step) => format!("{}, {} is refused, {delivery:?}:\n", S::NAME, row(step)),
            Trouble::Unheard(step) => format!("{}, {} is not answered in time, {delivery:?}:\n", S::NAME, row(step)),
            Trouble::Late(step) => format!("{}, {} comes late, {delivery:?}:\n", S::NAME, row(step)),
        };
        Self {
            trouble,
            delivery,
            state: S::START,
            parts: vec![Part::Untouched; S::STEPS.len()],
            history: Vec::new(),
            replies: Vec::new(),
            late_replies: Vec::new(),
            late_commands: Vec::new(),
            silent: 0,
            has_crashed: false,
            dialogue,
        }
    }

    /// Tells what happened.
    pub(super) fn play(mut self) -> Result<String, Broken> {
        match self.rounds().and_then(|()| self.afterwards()) {
            Ok(()) => Ok(self.dialogue),
            Err(invariant) => {
                let _ = writeln!(self.dialogue, "  BROKEN {}: {}", invariant.id(), invariant.sentence());
                Err(Broken { invariant, dialogue: self.dialogue })
            }
        }
    }

    fn say(&mut self, line: &str) {
        let _ = writeln!(self.dialogue, "  {line}");
    }

    fn row(&self) -> Option<(usize, &'static Row<S>)> {
        S::STEPS.iter().enumerate().find(|(_, step)| step.state == self.state)
    }

    fn rounds(&mut self) -> Held {
        for round in 0..ROUNDS_MAX {
            self.overtaken()?;
            let Some((row, step)) = self.row() else { return Ok(()) };
            if let Delivery::Asked(when, input) = self.delivery
                && when == round
            {
                self.hear(input)?;
                continue;
            }
            let answered = match self.trouble {
                Trouble::Unheard(troubled) | Trouble::Late(troubled) if troubled == row => self.unanswered(row, step)?,
                _ => false,
            };
            if !answered {
                self.exchange(row, step)?;
            }
            self.crash()?;
        }
        Err(Invariant::CanEnd)
    }

    /// Replies that the saga did not wait for come in each state that it goes through without them.
    fn overtaken(&mut self) -> Held {
        let is_waiting = matches!((self.trouble, self.row()), (Trouble::Unheard(troubled), Some((row, _))) if troubled == row);
        let replies = if is_waiting { Vec::new() } else { self.late_replies.clone() };
        replies.into_iter().try_for_each(|reply| self.hear(reply))
    }

    /// The step gets no answer for a while; tells whether that was this round's doing.
    fn unanswered(&mut self, row: usize, step: &Row<S>) -> Result<bool, Invariant> {
        if self.silent == SILENT_ROUNDS {
            return Ok(false);
        }
        self.silent += 1;
        if self.trouble == Trouble::Late(row) {
            self.say(&format!("asks {}: it is on its way for long", step.asks));
            self.late_commands.push(row);
        } else {
            let reply = self.ask(row);
            self.late_replies.extend(reply);
        }
        self.hear(S::DEADLINE_PASSED)?;
        self.hear(S::LAST_DEADLINE_PASSED)?;
        Ok(true)
    }

    /// A command, its answer, and what the law does to them.
    fn exchange(&mut self, row: usize, step: &Row<S>) -> Held {
        let is_compensation = step.kind == Kind::Compensation;
        let twice = match self.delivery {
            Delivery::Twice => true,
            Delivery::CompensationTwice => is_compensation,
            _ => false,
        };
        let mut replies: Vec<S::Input> = self.ask(row).into_iter().collect();
        if twice {
            replies.extend(self.ask(row));
        }
        match self.delivery {
            Delivery::DeadlineBefore => {
                self.hear(S::DEADLINE_PASSED)?;
                replies.extend(self.ask(row));
            }
            Delivery::DeadlineWith(at) if at == row => self.hear(S::LAST_DEADLINE_PASSED)?,
            _ => {}
        }
        for reply in &replies {
            self.hear(*reply)?;
            if twice {
                self.hear(*reply)?;
            }
        }
        self.replies.extend(&replies);
        match self.delivery {
            // The engine would drop it as stale; a table stands it all the same.
            Delivery::DeadlineAfter => self.hear(S::DEADLINE_PASSED)?,
            Delivery::Reordered => {
                for reply in self.replies.clone().into_iter().rev() {
                    self.hear(reply)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The instance is read again from what was recorded, and what was sent last comes again.
    fn crash(&mut self) -> Held {
        let Delivery::CrashAfter(events) = self.delivery else { return Ok(()) };
        if self.has_crashed || self.history.len() < events {
            return Ok(());
        }
        self.has_crashed = true;
        self.say("the process dies and starts again");
        self.replay()?;
        if let Some(reply) = self.replies.last().copied() {
            self.hear(reply)?;
        }
        if let Some((row, _)) = self.row() {
            let reply = self.ask(row);
            self.late_replies.extend(reply);
        }
        Ok(())
    }

    /// The recorded words, through the table again.
    fn replay(&mut self) -> Held {
        let mut state = S::START;
        for [from, input, to] in &self.history {
            let words = (S::State::parse(from), S::Input::parse(input), S::State::parse(to));
            let (Some(from), Some(input), Some(to)) = words else { return Err(Invariant::HistoryReplays) };
            match S::decide(from, input) {
                Decision::Moved { to: goes, .. } if from == state && goes == to => state = to,
                _ => return Err(Invariant::HistoryReplays),
            }
        }
        if state == self.state { Ok(()) } else { Err(Invariant::HistoryReplays) }
    }

    /// A participant is asked.
    fn ask(&mut self, row: usize) -> Option<S::Input> {
        let step = &S::STEPS[row];
        let reply = if step.kind == Kind::Compensation {
            for (part, of) in self.parts.iter_mut().zip(S::STEPS) {
                if of.compensation == Some(step.name) {
                    *part = Part::Ended;
                }
            }
            Some(step.done)
        } else {
            let refuses = self.trouble == Trouble::Refused(row);
            let part = &mut self.parts[row];
            if *part == Part::Untouched {
                *part = if refuses { Part::Refused } else { Part::Done };
            }
            if *part == Part::Done { Some(step.done) } else { step.refused }
        };
        self.say(&format!("asks {}: {}", step.asks, reply.map_or("no answer", Word::as_str)));
        reply
    }

    /// Something comes to the saga.
    fn hear(&mut self, input: S::Input) -> Held {
        let row = self.row().map(|(_, step)| step);
        match S::decide(self.state, input) {
            Decision::Moved { to, .. } => {
                self.say(&format!("hears {}: {} -> {}", input.as_str(), self.state.as_str(), to.as_str()));
                if row.is_none() {
                    return Err(Invariant::CleanOrComplete);
                }
                self.history.push([self.state.as_str(), input.as_str(), to.as_str()]);
                self.state = to;
                Ok(())
            }
            Decision::Ignored(why) => {
                self.say(&format!("hears {}: ignored, {}", input.as_str(), why.as_str()));
                let awaited = row.is_some_and(|step| input == step.done || Some(input) == step.refused);
                if awaited { Err(Invariant::CanEnd) } else { Ok(()) }
            }
            Decision::Illegal => {
                self.say(&format!("hears {}: nobody asked for it in {}", input.as_str(), self.state.as_str()));
                Err(Invariant::NoneIllegal)
            }
        }
    }

    /// It has ended: what was late comes now, and then nothing may be left half done.
    fn afterwards(&mut self) -> Held {
        for row in std::mem::take(&mut self.late_commands) {
            let reply = self.ask(row);
            self.late_replies.extend(reply);
        }
        for reply in std::mem::take(&mut self.late_replies) {
            self.hear(reply)?;
        }
        self.hear(S::DEADLINE_PASSED)?;
        self.replay()?;
        let mut parts = self.parts.iter().zip(S::STEPS).filter(|(_, step)| step.kind != Kind::Compensation);
        let is_complete = parts.clone().all(|(part, _)| *part == Part::Done);
        let is_clean = parts.all(|(part, _)| *part != Part::Done);
        if is_complete || is_clean || matches!(self.delivery, Delivery::Asked(..)) {
            return Ok(());
        }
        let done: Vec<_> =
            self.parts.iter().zip(S::STEPS).filter(|(part, _)| **part == Part::Done).map(|(_, step)| step.name).collect();
        self.say(&format!("it has ended in {}, and this is left: {}", self.state.as_str(), done.join(", ")));
        Err(Invariant::CleanOrComplete)
    }
}
