//! The engine with the order saga on a real log: starts, deadlines, stuck, replays. The participants are the test itself.

use std::{sync::Arc, time::Duration};

use contract::{Currency, Meta, Money, Timestamp, saga::Event};
use eventlog::{
    Clock, Env, Error, Handler, Job, Log, Stored, Unit, Writer, WriterLimits, on,
    testing::{TestClock, TestDatabase},
};
use saga::{
    Decision, Saga, Why, Word,
    order::{Context, Input, OrderSaga, State},
};
use skald_engine::{Applied, Engine, Instance, Loaded, MIGRATION, Metrics, Patience, Selection};
use tokio::task::JoinHandle;
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(5);
const PATIENCE: Patience =
    Patience { step_deadline: DEADLINE, tries_max: 3, backoff_max: Duration::from_secs(60), stuck_after: 6 };

/// A service that hosts order sagas and nothing else.
struct Host(Engine<OrderSaga>);

#[derive(Clone, Debug)]
enum Work {
    Start(Uuid),
    Hear(Uuid, Input),
    Due,
}

impl Handler for Host {
    type Work = Work;
    type Done = Vec<Applied>;

    async fn handle(&self, unit: &mut Unit<'_>, jobs: &[&Job<Work>]) -> Result<Vec<Vec<Applied>>, Error> {
        let passed = Timestamp(unit.now().0 + 1);
        let due = self.0.due().claim(unit, passed, 100).await?;
        let heard = jobs.iter().filter_map(|job| if let Work::Hear(id, _) = job.work { Some(id) } else { None });
        let ids: Vec<Uuid> = heard.chain(due.iter().copied()).collect();
        let Loaded { instances: mut sagas, unreadable } = skald_engine::load::<OrderSaga>(unit.conn(), &ids).await?;
        let aside = due.iter().filter_map(|id| Some((*id, unreadable.get(id)?.clone()))).collect::<Vec<_>>();
        self.0.due().set_aside(unit, &aside).await?;
        let mut done = Vec::new();
        for job in jobs {
            done.push(match &job.work {
                Work::Start(id) => {
                    let instance = self.0.start(unit, &job.meta, *id, context(*id));
                    sagas.insert(*id, instance);
                    vec![Applied::Moved { ended: false }]
                }
                Work::Hear(id, input) => vec![self.0.apply(unit, &job.meta, sagas.get_mut(id).unwrap(), *input, None)],
                Work::Due => due.iter().filter_map(|id| Some(self.0.deadline(unit, sagas.get_mut(id)?).1)).collect(),
            });
        }
        skald_engine::save(unit, &sagas.values().collect::<Vec<_>>()).await?;
        Ok(done)
    }

    fn answer(&self, _: &Vec<Applied>) -> Option<Stored> {
        None
    }

    fn committed(&self, _: Vec<Vec<Applied>>) {}
}

fn context(id: Uuid) -> Context {
    Context {
        order_id: id.into(),
        customer_id: Uuid::from_u128(7).into(),
        lines: Vec::new(),
        total: Money::new(1999, Currency::EUR),
        payment_token: "tok_ok".into(),
    }
}

struct Running {
    host: Arc<Host>,
    writer: Writer<Host>,
    clock: Arc<TestClock>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(database: &TestDatabase, clock: &Arc<TestClock>) -> Self {
        let env = Env::seeded(clock.clone(), 1);
        let opened = Log::open(database.database.clone(), "host", &[MIGRATION], env).await.unwrap();
        let host = Arc::new(Host(Engine::new(PATIENCE, Metrics::default())));
        let (writer, task) = Writer::new(opened, host.clone(), WriterLimits::default());
        #[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
        let task = tokio::spawn(task);
        Self { host, writer, clock: clock.clone(), task }
    }

    async fn does(&self, work: Work) -> Vec<Applied> {
        self.writer.submit(Job { work, meta: Meta::default() }).await.unwrap()
    }

    async fn placed(&self, n: u128) -> Uuid {
        let id = Uuid::from_u128(n);
        self.does(Work::Start(id)).await;
        id
    }

    async fn hears(&self, id: Uuid, input: Input) -> Applied {
        self.does(Work::Hear(id, input)).await[0]
    }

    /// Moves the clock past every wait there is, and lets deadlines fire.
    async fn deadline(&self) -> Vec<Applied> {
        self.clock.advance(PATIENCE.backoff_max * 3);
        self.does(Work::Due).await
    }

    /// Looks for what is due as the watch does, until it finds nothing more.
    async fn looks(&self) {
        let (log, due) = (self.writer.log(), self.host.0.due());
        while due.first(log).await.unwrap().is_some_and(|first| first <= log.env().now()) {
            self.does(Work::Due).await;
        }
    }

    /// How many sagas wait for a build that can read them.
    async fn aside(&self) -> i64 {
        let mut reader = self.writer.log().reader().await.unwrap();
        self.host.0.due().aside(&mut reader.conn()).await.unwrap()
    }

    async fn kinds(&self, id: Uuid) -> Vec<String> {
        let rows = self.writer.log().stream(&Instance::<OrderSaga>::stream(id), 1).await.unwrap();
        rows.iter().map(|row| row.kind.rsplit('.').next().unwrap().to_owned()).collect()
    }

    async fn saga(&self, id: Uuid) -> Instance<OrderSaga> {
        let mut reader = self.writer.log().reader().await.unwrap();
        // SQLite's readers may not lock; PostgreSQL's may.
        skald_engine::load(&mut reader.conn(), &[id]).await.unwrap().instances.remove(&id).unwrap()
    }

    async fn stop(self) {
        drop(self.writer);
        self.task.await.unwrap();
    }
}

async fn fresh() -> (TestDatabase, Running) {
    let database = TestDatabase::fresh().await;
    let running = Running::start(&database, &TestClock::start()).await;
    (database, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_order_leaves_this_history() {
    let (_database, host) = fresh().await;
    let id = host.placed(1).await;
    for input in [Input::StockReserved, Input::PaymentAuthorized, Input::PaymentCaptured] {
        assert_eq!(host.hears(id, input).await, Applied::Moved { ended: false });
    }
    assert_eq!(host.hears(id, Input::StockCommitted).await, Applied::Moved { ended: true });
    let told = "SagaStarted SagaMoved ReserveStock SagaMoved AuthorizePayment SagaMoved CapturePayment SagaMoved CommitStock SagaMoved SagaEnded";
    assert_eq!(host.kinds(id).await.join(" "), told);
    let saga = host.saga(id).await;
    assert_eq!((saga.state, saga.due, saga.version), (State::Confirmed, None, 11));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_is_asked_again_and_then_compensated() {
    let (_database, host) = fresh().await;
    let id = host.placed(1).await;
    assert!(host.does(Work::Due).await.is_empty(), "nothing is due before its time");
    for attempt in 2..=3 {
        assert_eq!(host.deadline().await, [Applied::Moved { ended: false }]);
        assert_eq!((host.saga(id).await.state, host.saga(id).await.attempt), (State::ReservingStock, attempt));
    }
    host.deadline().await;
    assert_eq!(host.saga(id).await.state, State::ReleasingStock);
    assert_eq!(host.hears(id, Input::StockReserved).await, Applied::Ignored(Why::Late));
    assert_eq!(host.hears(id, Input::StockReleased).await, Applied::Moved { ended: true });
    assert_eq!(host.saga(id).await.reason.map(Word::as_str), Some("stock_timeout"));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_given_up_is_asked_for_ever_flagged_once_and_still_moved_by_a_late_reply() {
    let (_database, host) = fresh().await;
    let id = host.placed(1).await;
    host.hears(id, Input::StockReserved).await;
    host.hears(id, Input::PaymentAuthorized).await;
    for _ in 0..12 {
        host.deadline().await;
    }
    let saga = host.saga(id).await;
    assert_eq!((saga.state, saga.attempt, saga.stuck), (State::CapturingPayment, 13, true));
    assert_eq!(host.kinds(id).await.iter().filter(|kind| *kind == "SagaStuck").count(), 1);
    let mut reader = host.writer.log().reader().await.unwrap();
    let stuck = skald_engine::list(&mut reader.conn(), Selection::Stuck, None, 10).await.unwrap();
    assert_eq!(stuck.iter().map(|saga| saga.id).collect::<Vec<_>>(), [id]);
    drop(reader);
    assert_eq!(host.hears(id, Input::PaymentCaptured).await, Applied::Moved { ended: false });
    assert!(!host.saga(id).await.stuck, "it moved, so it is not stuck any more");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_waits_of_what_is_asked_for_ever_grow_to_their_cap() {
    let (_database, host) = fresh().await;
    let id = host.placed(1).await;
    host.hears(id, Input::CancelAsked).await;
    let mut waits = Vec::new();
    for _ in 0..10 {
        let due = host.saga(id).await.due.unwrap();
        waits.push(due.since(eventlog::Clock::now(&*host.clock)));
        host.deadline().await;
    }
    assert_eq!(waits[0], DEADLINE);
    assert!(waits.iter().all(|wait| *wait <= PATIENCE.backoff_max * 2), "{waits:?}");
    assert!(waits[9] >= PATIENCE.backoff_max, "{waits:?}");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_the_same_batch_makes_its_deadline_stale() {
    let (_database, host) = fresh().await;
    let id = host.placed(1).await;
    host.clock.advance(DEADLINE * 2);
    let (heard, fired) = tokio::join!(host.hears(id, Input::StockReserved), host.does(Work::Due));
    assert_eq!(heard, Applied::Moved { ended: false });
    assert!(fired.is_empty() || fired == [Applied::Ignored(Why::Stale)], "{fired:?}");
    assert_eq!((host.saga(id).await.state, host.saga(id).await.attempt), (State::AuthorizingPayment, 1));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_cannot_be_read_stops_nobody() {
    let (database, clock) = (TestDatabase::fresh().await, TestClock::start());
    let host = Running::start(&database, &clock).await;
    let (broken, good) = (host.placed(1).await, host.placed(2).await);
    host.stop().await;
    let mut opened = Log::open(database.database.clone(), "host", &[MIGRATION], Env::system()).await.unwrap();
    on!(&mut opened.connection.conn(), |c| sqlx::query::<DB>("UPDATE sagas SET state = 'Nonsense' WHERE id = $1")
        .bind(broken)
        .execute(c)
        .await
        .map(drop))
    .unwrap();
    drop(opened);
    let host = Running::start(&database, &clock).await;
    host.clock.advance(DEADLINE * 2);
    host.does(Work::Due).await;
    assert_eq!(host.saga(good).await.attempt, 2);
    host.stop().await;
}

/// What somebody else has written.
async fn change(database: &TestDatabase, sql: &'static str) {
    let mut opened = Log::open(database.database.clone(), "host", &[MIGRATION], Env::system()).await.unwrap();
    on!(&mut opened.connection.conn(), |c| sqlx::query::<DB>(sql).execute(c).await.map(drop)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sagas_of_a_newer_build_stand_in_nobody_s_way_until_one_comes_that_can_read_them() {
    // Three times what is decided in one transaction.
    const NEWER: u128 = 300;
    let (database, clock) = (TestDatabase::fresh().await, TestClock::start());
    let host = Running::start(&database, &clock).await;
    for n in 1..=NEWER {
        host.placed(n).await;
    }
    host.clock.advance(Duration::from_millis(1));
    let good = host.placed(NEWER + 1).await;
    host.stop().await;
    change(
        &database,
        "UPDATE sagas SET definition = 2, state = 'Teleporting' WHERE id <> (SELECT id FROM sagas ORDER BY due_us DESC LIMIT 1)",
    )
    .await;

    let host = Running::start(&database, &clock).await;
    host.clock.advance(DEADLINE * 2);
    host.looks().await;
    assert_eq!((host.saga(good).await.attempt, host.aside().await), (2, NEWER as i64));
    let commits = host.writer.log().commits();
    host.looks().await;
    assert_eq!(host.writer.log().commits(), commits, "they are not looked at again");
    let mut reader = host.writer.log().reader().await.unwrap();
    let listed = skald_engine::list(&mut reader.conn(), Selection::Open, None, 1_000).await.unwrap();
    let (aside, rest): (Vec<_>, Vec<_>) = listed.into_iter().partition(|listed| listed.unreadable);
    assert_eq!((aside.len(), rest.len()), (NEWER as usize, 1));
    assert!(aside.iter().all(|listed| listed.due.is_none()) && rest[0].due.is_some());
    drop(reader);
    host.stop().await;

    // The build that knows the state starts.
    change(&database, "UPDATE sagas SET definition = 1, state = 'ReservingStock'").await;
    let host = Running::start(&database, &clock).await;
    host.looks().await;
    assert_eq!(host.aside().await, 0);
    for n in 1..=NEWER {
        assert_eq!(host.saga(Uuid::from_u128(n)).await.attempt, 2, "{n}");
    }
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_of_a_clock_that_was_ahead_is_pulled_in() {
    let (database, ahead) = (TestDatabase::fresh().await, TestClock::start());
    ahead.advance(Duration::from_secs(3_600));
    let host = Running::start(&database, &ahead).await;
    let id = host.placed(1).await;
    host.stop().await;

    let clock = TestClock::start();
    let host = Running::start(&database, &clock).await;
    host.looks().await;
    assert_eq!(host.host.0.due().pulled_in(), 1);
    assert_eq!(host.saga(id).await.due, Some(clock.now().plus(DEADLINE)));
    host.clock.advance(DEADLINE);
    host.looks().await;
    assert_eq!(host.saga(id).await.attempt, 2);
    assert_eq!(host.host.0.due().pulled_in(), 1, "only once");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_survive_a_restart() {
    let (database, clock) = (TestDatabase::fresh().await, TestClock::start());
    let host = Running::start(&database, &clock).await;
    let id = host.placed(1).await;
    host.stop().await;
    let host = Running::start(&database, &clock).await;
    assert_eq!(host.deadline().await, [Applied::Moved { ended: false }]);
    assert_eq!(host.saga(id).await.attempt, 2);
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_fires_what_is_due_and_nothing_else() {
    let (_database, host) = fresh().await;
    let id = host.placed(1).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let writer = host.writer.clone();
    let fire = move || {
        let writer = writer.clone();
        async move { writer.submit(Job { work: Work::Due, meta: Meta::default() }).await.map(drop) }
    };
    #[expect(clippy::disallowed_methods, reason = "a test has no tasks of a process")]
    let watch =
        tokio::spawn(skald_engine::watch_deadlines(host.writer.log().clone(), host.host.0.due().clone(), fire, stop.clone()));
    let asked_again = async {
        while host.saga(id).await.attempt < 2 {
            // Time goes on for as long as the deadline has not fired.
            host.clock.advance(Duration::from_millis(100));
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), asked_again).await.is_ok(), "no deadline fired");
    stop.cancel();
    watch.await.unwrap();
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_history_replays_through_the_table_to_the_same_instance() {
    let (_database, host) = fresh().await;
    let (mut seed, inputs) = (17_u64, Input::ALL);
    for n in 1..=40 {
        let id = host.placed(n).await;
        for _ in 0..30 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let input = inputs[usize::try_from(seed >> 33).unwrap() % inputs.len()];
            if host.saga(id).await.ended.is_none() {
                host.hears(id, input).await;
            }
        }
        let (mut state, mut reason) = (OrderSaga::START, None);
        for row in host.writer.log().stream(&Instance::<OrderSaga>::stream(id), 1).await.unwrap() {
            let Ok(Event::SagaMoved(moved)) = Event::decode(&row.kind, row.schema, &row.data) else { continue };
            let Some(input) = moved.input.as_str().and_then(Input::parse) else { continue };
            let Decision::Moved { to, reason: because } = OrderSaga::decide(state, input) else {
                panic!("{moved:?} does not replay")
            };
            assert_eq!((moved.from.as_deref(), moved.to.as_str()), (Some(state.as_str()), to.as_str()));
            state = to;
            reason = reason.or(because);
        }
        let saga = host.saga(id).await;
        assert_eq!((saga.state, saga.reason), (state, reason));
    }
    host.stop().await;
}
