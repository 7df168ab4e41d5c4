//! The simulated world: processes, broker, provider, customers, one clock. It takes one step at a time, and chance says which.
//!
//! Never here: what a service does (production code), or whether it was right (`check`). `choose.rs` lists what can happen next,
//! `act.rs` does it, `fault.rs` breaks things, `shop.rs` is the customers.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::Context as _;
use contract::{MessageKeys, Timestamp};
use eventlog::{Database, Env, Memory, Readers};

use crate::{
    broker::Broker,
    chance::Chance,
    clock::Clock,
    disk::Disk,
    drive::{Driven, Operation, drive},
    provider::{Post, Provider},
    replica::{Name, Replica},
    shop::Shop,
    trace::Trace,
};

/// What a process has for messages: about sixteen in a batch, and a dozen in a partition, so that bounds are met all the time.
const MEMORY: Memory = Memory::mib(1);

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub orders: usize,
    /// Steps with faults before the calm. None: there is no fault at all.
    pub faulty_steps: u64,
    /// Steps of the calm after which somebody must be stuck, on top of so many an order.
    pub calm_steps_max: u64,
    pub is_traced: bool,
}

impl Plan {
    pub fn new(seed: u64, orders: usize) -> Self {
        Self { seed, orders, faulty_steps: orders as u64 * 50, calm_steps_max: 20_000 + orders as u64 * 500, is_traced: false }
    }
}

/// One service: its database, and how far its log is known to reach.
pub(crate) struct Service {
    pub database: Database,
    /// The checkers' own connections.
    pub readers: Readers,
    pub head: i64,
    /// The checkpoint that was saved last, which only an operator sets back.
    pub published: i64,
    /// When something of its database is due next, as far as was looked.
    pub due: Option<Timestamp>,
}

/// Where a process runs, or will run again.
pub(crate) struct Slot {
    pub name: Name,
    pub number: usize,
    pub up: Option<Replica>,
    pub disk: Arc<Disk>,
    /// What its process takes for the time.
    pub clock: Clock,
    /// When idempotency keys were forgotten last, or it started.
    pub forgot: Timestamp,
    /// It starts again then.
    pub down_until: Timestamp,
    starts: u64,
}

/// Counts of what a run went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub crashes: u64,
    pub garbage: u64,
    pub rewinds: u64,
    pub cuts: u64,
}

/// Everything there is.
pub(crate) struct World {
    pub plan: Plan,
    pub chance: Chance,
    pub clock: Clock,
    pub trace: Trace,
    pub broker: Broker,
    pub provider: Provider,
    pub post: Post,
    pub services: BTreeMap<Name, Service>,
    pub slots: Vec<Slot>,
    pub shop: Shop,
    pub counts: Counts,
    pub is_calm: bool,
    /// Whether the broker loses what it acknowledged; only then may a message ever wait for a gap to close.
    pub may_cut: bool,
    /// Whether processes start with clocks that are wrong, until the calm; only then may something act early.
    pub may_err: bool,
    /// A newer build has run, and left rows.
    pub has_newer: bool,
    /// What was found wrong on the way.
    pub wrong: Vec<String>,
    /// Service and position: what an operator was told to publish again.
    pub to_rewind: BTreeMap<Name, i64>,
}

impl World {
    /// Opens every service in `directory` and fills the shop.
    pub(crate) async fn open(plan: Plan, directory: &Path) -> anyhow::Result<Self> {
        let clock = Clock::start();
        let mut chance = Chance::new(plan.seed);
        let mut services = BTreeMap::new();
        let mut slots = Vec::new();
        for name in Name::ALL {
            let database = Database::Sqlite(directory.join(format!("{}.db", name.as_str())));
            let readers = database.readers().context("the checkers' connections")?;
            services.insert(name, Service { database, readers, head: 0, published: 0, due: None });
            // The first has to be there when the shop is filled.
            for number in 0..=usize::from(plan.faulty_steps > 0 && chance.permille(600)) {
                let disk = Disk::new(clock.clone());
                let (now, clock) = (clock.now(), clock.clone());
                slots.push(Slot { name, number, up: None, disk, clock, forgot: now, down_until: now, starts: 0 });
            }
        }
        let may_cut = plan.faulty_steps > 0 && chance.permille(400);
        let may_err = plan.faulty_steps > 0 && chance.permille(400);
        let trace = Trace::new(clock.now(), plan.is_traced);
        let post = Post::new(chance.bits());
        let shop = Shop::new(&mut chance, plan.orders);
        // Every other world has a message key.
        let keys = match plan.seed % 2 {
            0 => MessageKeys::parse("sim:what every service of this world knows").context("the message key")?,
            _ => MessageKeys::default(),
        };
        let (broker, provider) = (Broker::new(keys), Provider::default());
        let (counts, to_rewind) = (Counts::default(), BTreeMap::new());
        let mut world = Self {
            plan,
            chance,
            clock,
            trace,
            broker,
            provider,
            post,
            services,
            slots,
            shop,
            counts,
            is_calm: true,
            may_cut,
            may_err,
            has_newer: false,
            wrong: Vec::new(),
            to_rewind,
        };
        for slot in 0..world.slots.len() {
            world.start(slot).await?;
        }
        world.fill().await?;
        world.is_calm = world.plan.faulty_steps == 0;
        if !world.is_calm {
            world.post.be_faulty(100);
        }
        Ok(world)
    }

    /// Starts the process of a slot; what it knows is what its database knows.
    pub(crate) async fn start(&mut self, index: usize) -> anyhow::Result<()> {
        let wrong_by = if self.is_calm { 0 } else { self.wrong_by() };
        let slot = &mut self.slots[index];
        slot.starts += 1;
        (slot.clock, slot.forgot) = (self.clock.wrong_by(wrong_by), self.clock.now());
        slot.disk = Disk::new(self.clock.clone());
        let seed = self.plan.seed ^ (index as u64 + 1) << 32 ^ slot.starts << 48;
        let env = Env::seeded(Arc::new(slot.clock.clone()), seed).with_disk(slot.disk.clone()).with_memory(MEMORY);
        let service = self.services.get_mut(&slot.name).expect("every service is there");
        let opened = Replica::open(slot.name, service.database.clone(), env, &self.provider, &self.post).await;
        let replica = opened.with_context(|| format!("opening {}", slot.name.as_str()))?;
        service.head = service.head.max(*replica.log.head().borrow());
        // Whatever is open is looked for at once.
        service.due = (slot.name != Name::Product).then(|| self.clock.now());
        slot.up = Some(replica);
        Ok(())
    }

    /// The process of a slot is gone, with everything it had in memory.
    pub(crate) fn crash(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if let Some(mut replica) = slot.up.take() {
            replica.relay.drop_producer();
            self.counts.crashes += 1;
        }
        let most = if self.chance.permille(150) { 20_000 } else { 1_500 };
        slot.down_until = self.clock.now().plus(std::time::Duration::from_millis(self.chance.between(1, most)));
    }

    /// Every process whose clock is wrong is ended, and starts again with the right time.
    pub(crate) fn set_clocks_right(&mut self) {
        let is_wrong = |(_, slot): &(usize, &Slot)| slot.up.is_some() && !slot.clock.is_right();
        let wrong: Vec<usize> = self.slots.iter().enumerate().filter(is_wrong).map(|(index, _)| index).collect();
        for index in wrong {
            let label = self.label(index);
            self.say(format_args!("{label} is ended: its clock was wrong"));
            self.crash(index);
        }
    }

    /// Drives an operation of a slot; a crash under it takes the process down.
    pub(crate) async fn drive<T>(&mut self, index: usize, operation: &mut Operation<T>) -> Driven<T> {
        let fate = if self.is_calm { None } else { self.fate() };
        let slot = &mut self.slots[index];
        let Some(replica) = slot.up.as_mut() else { return Driven::Crashed };
        slot.disk.arm(fate);
        let driven = drive(operation, &mut replica.writer, &self.clock, &slot.disk).await;
        slot.disk.arm(None);
        let head = *replica.log.head().borrow();
        if let Some(steps) = &mut replica.steps {
            while let Some(operation) = steps.send() {
                replica.sending.push(crate::replica::Parked { until: self.clock.now(), call: None, operation });
            }
        }
        let service = self.services.get_mut(&slot.name).expect("every service is there");
        service.head = service.head.max(head);
        if matches!(driven, Driven::Crashed) {
            let (name, number) = (slot.name.as_str(), slot.number);
            self.say(format_args!("{name}/{number} crashed at a commit: {fate:?}"));
            self.crash(index);
        }
        driven
    }

    pub(crate) fn say(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.say(self.clock.now(), what);
    }

    /// How the trace calls the process of a slot.
    pub(crate) fn label(&self, index: usize) -> String {
        format!("{}/{}", self.slots[index].name.as_str(), self.slots[index].number)
    }

    /// The slots of a service whose process runs.
    pub(crate) fn running(&self, name: Name) -> Vec<usize> {
        let is_up = |(_, slot): &(usize, &Slot)| slot.name == name && slot.up.is_some();
        self.slots.iter().enumerate().filter(is_up).map(|(index, _)| index).collect()
    }

    pub(crate) fn replica(&mut self, index: usize) -> &mut Replica {
        self.slots[index].up.as_mut().expect("asked of a process that runs")
    }

    /// One of the processes of a service that run.
    pub(crate) fn any(&mut self, name: Name) -> Option<usize> {
        let running = self.running(name);
        (!running.is_empty()).then(|| running[self.chance.below(running.len())])
    }
}
