//! Explores a model exhaustively: every state, the shortest way to a broken invariant, and from which states no good end can be reached.
//!
//! Never here: what a model is about. From here the flow goes to `main.rs`, which prints what was found. Stateright's checker looks at
//! the same models a second time; it has no word for "can still be reached", which takes the pass backwards below.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt::Write,
    hash::Hash,
};

use skald_saga::Invariant;
use stateright::{Checker, Model};

/// A model with what the explorer asks of it.
pub(crate) trait Proven: Model<State: Clone + Eq + Hash, Action: Copy + PartialEq> {
    /// What is broken in a state. Nothing follows it.
    fn broken(&self, state: &Self::State) -> Option<Invariant>;

    /// Whether everything has come to a good end.
    fn is_end(&self, state: &Self::State) -> bool;

    /// Whether the system does this by itself. A good end that only people can bring about does not count.
    fn is_own(&self, action: Self::Action) -> bool;

    /// One line of a dialogue.
    fn say(&self, before: &Self::State, action: Self::Action, after: &Self::State) -> String;
}

/// What was seen of a model.
#[derive(Debug)]
pub(crate) struct Explored {
    pub states: usize,
    pub moves: u64,
    /// The longest of the shortest ways.
    pub depth: u32,
    pub finding: Option<Finding>,
}

/// An invariant that does not hold, with the shortest way there.
#[derive(Debug)]
pub(crate) struct Finding {
    pub invariant: Invariant,
    pub dialogue: String,
}

/// Explores every state, or up to the first that breaks an invariant.
pub(crate) fn explore<M: Proven>(model: &M) -> Explored {
    let mut graph = Graph::new(model);
    let broken = graph.forwards();
    let finding = match broken {
        Some((state, invariant)) => Some((state, invariant)),
        None => graph.without_end().map(|state| (state, Invariant::CanEnd)),
    };
    let finding = finding.map(|(state, invariant)| Finding { invariant, dialogue: graph.dialogue(state, invariant) });
    Explored { states: graph.states.len(), moves: graph.moves, depth: graph.depth.last().copied().unwrap_or(0), finding }
}

/// The number of states that stateright's own checker finds, and whether it found them all without a broken invariant.
pub(crate) fn second_opinion<M>(model: M) -> (usize, bool)
where
    M: Proven<State: std::fmt::Debug + Hash + Send + Sync, Action: std::fmt::Debug> + Send + Sync + 'static,
{
    let checker = model.checker().spawn_bfs().join();
    (checker.unique_state_count(), checker.discoveries().is_empty())
}

struct Graph<'m, M: Proven> {
    model: &'m M,
    states: Vec<M::State>,
    index: HashMap<M::State, u32>,
    parent: Vec<u32>,
    depth: Vec<u32>,
    moves: u64,
    /// Where the system's own moves lead, one state after the other.
    targets: Vec<u32>,
    /// Where each state's begin in `targets`.
    begins: Vec<usize>,
}

impl<'m, M: Proven> Graph<'m, M> {
    fn new(model: &'m M) -> Self {
        let mut graph = Self {
            model,
            states: Vec::new(),
            index: HashMap::new(),
            parent: Vec::new(),
            depth: Vec::new(),
            moves: 0,
            targets: Vec::new(),
            begins: Vec::new(),
        };
        for state in model.init_states() {
            let own = u32::try_from(graph.states.len()).expect("few beginnings");
            graph.reach(state, own, 0);
        }
        graph
    }

    fn reach(&mut self, state: M::State, parent: u32, depth: u32) -> (u32, bool) {
        let next = u32::try_from(self.states.len()).expect("fewer than 2^32 states fit into memory");
        match self.index.entry(state) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(new) => {
                self.states.push(new.key().clone());
                new.insert(next);
                self.parent.push(parent);
                self.depth.push(depth);
                (next, true)
            }
        }
    }

    /// Visits every state, nearest first; stops at the first that is broken.
    fn forwards(&mut self) -> Option<(u32, Invariant)> {
        let mut actions = Vec::new();
        let mut at = 0;
        while at < self.states.len() {
            let (here, state, depth) = (u32::try_from(at).expect("counted by reach"), self.states[at].clone(), self.depth[at]);
            self.begins.push(self.targets.len());
            actions.clear();
            self.model.actions(&state, &mut actions);
            for action in &actions {
                let Some(after) = self.model.next_state(&state, *action) else { continue };
                if after == state {
                    continue;
                }
                self.moves += 1;
                let broken = self.model.broken(&after);
                let (target, _) = self.reach(after, here, depth + 1);
                if let Some(invariant) = broken {
                    return Some((target, invariant));
                }
                if self.model.is_own(*action) {
                    self.targets.push(target);
                }
            }
            at += 1;
        }
        self.begins.push(self.targets.len());
        None
    }

    /// Goes backwards from the good ends; the nearest state that this does not come to.
    fn without_end(&self) -> Option<u32> {
        let count = self.states.len();
        let mut begins = vec![0usize; count + 1];
        for target in &self.targets {
            begins[*target as usize + 1] += 1;
        }
        for state in 0..count {
            begins[state + 1] += begins[state];
        }
        let (mut sources, mut filled) = (vec![0u32; self.targets.len()], begins.clone());
        for (source, span) in self.begins.windows(2).enumerate() {
            for target in &self.targets[span[0]..span[1]] {
                let slot = &mut filled[*target as usize];
                sources[*slot] = u32::try_from(source).expect("counted by reach");
                *slot += 1;
            }
        }
        let mut ends_well: Vec<bool> = self.states.iter().map(|state| self.model.is_end(state)).collect();
        let mut queue: VecDeque<usize> = (0..count).filter(|state| ends_well[*state]).collect();
        while let Some(state) = queue.pop_front() {
            for source in &sources[begins[state]..begins[state + 1]] {
                if !std::mem::replace(&mut ends_well[*source as usize], true) {
                    queue.push_back(*source as usize);
                }
            }
        }
        ends_well.iter().position(|ends| !ends).map(|state| u32::try_from(state).expect("counted by reach"))
    }

    /// The shortest way to a state, one sentence a move.
    fn dialogue(&self, state: u32, invariant: Invariant) -> String {
        let mut way = vec![state as usize];
        while let Some(last) = way.last().copied()
            && self.parent[last] as usize != last
        {
            way.push(self.parent[last] as usize);
        }
        way.reverse();
        let mut text = String::new();
        for (number, pair) in way.windows(2).enumerate() {
            let (before, after) = (&self.states[pair[0]], &self.states[pair[1]]);
            let mut actions = Vec::new();
            self.model.actions(before, &mut actions);
            let action = actions.into_iter().find(|action| self.model.next_state(before, *action).as_ref() == Some(after));
            let line = self.model.say(before, action.expect("a parent leads to its child"), after);
            let _ = writeln!(text, "{:>4}. {line}", number + 1);
        }
        let _ = writeln!(text, "      BROKEN {}: {}", invariant.id(), invariant.sentence());
        text
    }
}
