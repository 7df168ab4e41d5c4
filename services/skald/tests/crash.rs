//! kill -9 of `skald up` while orders stream in, again and again: whatever was answered 202 ends, once, and everything adds up.
//!
//! `SKALD_CRASH_ROUNDS` says how often it is killed, `SKALD_CRASH_SEED` what orders and moments follow from. The clients keep a
//! journal of their own: what they were answered is all that the system is held to.

mod support;

use std::{collections::BTreeSet, sync::Arc};

use eventlog::Env;
use kit::Tasks;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::Value;
use tokio::sync::mpsc;

use support::{Person, System, home, order, run};

const CLIENTS: usize = 8;
const CUSTOMERS: usize = 3;
/// A round is over after so many answers at most.
const ANSWERS_MAX: usize = 160;
/// So many of the newest orders are asked for again at once after each restart; all of them at the end.
const REPEATED: usize = 40;
/// Timeouts come soon, so that rounds meet sagas in every state.
const KNOBS: &[(&str, &str)] =
    &[("SKALD_STEP_DEADLINE_MS", "500"), ("SKALD_PAYMENT_TIMEOUT_MS", "200"), ("SKALD_PAYMENT_SLOW_MS", "1500")];

/// A request of a client, for ever the same.
#[derive(Clone, Debug)]
struct Request {
    customer: usize,
    key: String,
    order: Value,
}

/// What a client writes into the journal.
enum Entry {
    /// 202, and this order.
    Taken(Request, String),
    /// No answer, or one that does not tell whether it was done.
    Unknown(Request),
    /// 409: no order was made.
    Refused,
}

/// What the clients know.
struct World {
    seed: u64,
    products: Vec<String>,
    tokens: Vec<String>,
}

#[derive(Default)]
struct Journal {
    taken: Vec<(Request, String)>,
    unknown: Vec<Request>,
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_that_was_taken_ends_and_adds_up_however_often_the_process_is_killed() {
    let rounds = number("SKALD_CRASH_ROUNDS").unwrap_or(3);
    let seed = number("SKALD_CRASH_SEED").unwrap_or_else(|| Env::system().random());
    println!("{rounds} rounds; to see them again: SKALD_CRASH_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let home = home();
    let mut system = System::start(home.path(), KNOBS);
    let world = Arc::new(world(&system, seed).await);
    let mut journal = Journal::default();
    for round in 0..rounds {
        repeat(&system, &world, &mut journal).await;
        // None at all now and then: killed while it starts.
        let answers = random.random_range(0..=ANSWERS_MAX).saturating_sub(ANSWERS_MAX / 8);
        let (before, in_doubt) = (journal.taken.len(), journal.unknown.len());
        stream(system, &world, round, answers, &mut journal).await;
        let (taken, unknown) = (journal.taken.len() - before, journal.unknown.len() - in_doubt);
        println!("round {round}: killed after {answers} answers; {taken} orders taken, {unknown} requests in doubt");
        system = System::start(home.path(), KNOBS);
    }
    repeat(&system, &world, &mut journal).await;
    assert!(journal.unknown.is_empty(), "each request has its answer now");
    all_end(&system, &world, &journal).await;
    system.settles().await;
    let data = system.data.clone();
    assert!(system.stop().success());

    let output = run(&["audit", "--settled", "--json", "--data", data.to_str().unwrap()]);
    let audit: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{audit:#}");
    let orders: BTreeSet<&String> = journal.taken.iter().map(|(_, id)| id).collect();
    assert_eq!(orders.len(), journal.taken.len(), "two keys gave the same order");
    assert_eq!(audit["orders"]["total"], orders.len(), "each order has its key, and each key one order");
}

/// Products and customers, made before the first crash.
async fn world(system: &System, seed: u64) -> World {
    let mut admin = system.admin().await;
    let mut products = Vec::new();
    for (sku, stock) in [("TEA-1", 1_000_000), ("TEA-2", 1_000_000), ("RARE-1", 40)] {
        products.push(admin.product(sku, stock).await);
    }
    let mut tokens = Vec::new();
    for customer in 0..CUSTOMERS {
        tokens.push(system.token(&format!("customer-{customer}")).await);
    }
    World { seed, products, tokens }
}

/// Streams orders in until so many were answered, and kills the system in the middle of the others.
async fn stream(system: System, world: &Arc<World>, round: u64, answers: usize, journal: &mut Journal) {
    let tasks = Tasks::new();
    let (sender, mut entries) = mpsc::channel(CLIENTS);
    for client in 0..CLIENTS {
        let mut random = SmallRng::seed_from_u64(world.seed ^ (round << 8) ^ client as u64);
        let (world, sender) = (world.clone(), sender.clone());
        let customer = client % CUSTOMERS;
        let mut person = Person::with(system.address, &world.tokens[customer]);
        tasks.spawn("client", async move {
            for count in 0.. {
                let key = format!("{round}-{client}-{count}");
                let (order, cancels) = wanted(&mut random, &world.products);
                let entry = place(&mut person, Request { customer, key, order }).await;
                let over = matches!(entry, Entry::Unknown(_));
                if let (true, Entry::Taken(request, id)) = (cancels, &entry) {
                    // Whether it was in time, or answered at all, is told by the order's end.
                    let _ = person.try_post(&format!("/v1/orders/{id}/cancel"), &request.key, &Value::Null, 0).await;
                }
                if sender.send(entry).await.is_err() || over {
                    return;
                }
            }
        });
    }
    drop(sender);
    let (mut system, mut left) = (Some(system), answers);
    loop {
        if left == 0
            && let Some(system) = system.take()
        {
            system.kill();
        }
        // After the kill every client meets a broken connection, and leaves.
        match entries.recv().await {
            Some(Entry::Taken(request, id)) => journal.taken.push((request, id)),
            Some(Entry::Unknown(request)) => journal.unknown.push(request),
            Some(Entry::Refused) => {}
            None => break,
        }
        left = left.saturating_sub(1);
    }
    assert!(system.is_none(), "the clients left before the kill: {:?}", journal.unknown.last());
    assert_eq!(tasks.panicked(), None);
}

/// One order out of the mix, and whether its customer cancels at once.
fn wanted(random: &mut SmallRng, products: &[String]) -> (Value, bool) {
    let (token, cancels) = match random.random_range(0..100) {
        0..10 => ("tok_declined", false),
        10..20 => ("tok_lost", random.random()),
        20..25 => ("tok_capture_refused", false),
        25..28 => ("tok_slow", false),
        28..38 => ("tok_ok", true),
        _ => ("tok_ok", false),
    };
    (order(&products[random.random_range(0..products.len())], random.random_range(1..=2), token), cancels)
}

/// Sends a request once.
async fn place(person: &mut Person, request: Request) -> Entry {
    match person.try_post("/v1/orders", &request.key, &request.order, 0).await {
        Err(_) => Entry::Unknown(request),
        Ok(answer) => match answer.told() {
            (202, ..) => Entry::Taken(request, answer.id()),
            (409, "out_of_stock", _) => Entry::Refused,
            // Nothing was done, or nobody knows: it is repeated after the restart.
            (503, ..) | (409, "request_in_flight", _) => Entry::Unknown(request),
            _ => panic!("{request:?} was answered {answer:?}"),
        },
    }
}

/// Sends the newest requests again, word for word: the same key is the same order, also if its answer was lost.
async fn repeat(system: &System, world: &World, journal: &mut Journal) {
    let mut people = people(system, world);
    for (request, id) in journal.taken.iter().rev().take(REPEATED) {
        assert_eq!(&again(&mut people, request).await.unwrap(), id, "{request:?} gave another order after a restart");
    }
    for request in std::mem::take(&mut journal.unknown) {
        // None: it did not get as far before, and now too little stock is left.
        if let Some(id) = again(&mut people, &request).await {
            assert_eq!(again(&mut people, &request).await, Some(id.clone()), "{request:?} gave two orders");
            journal.taken.push((request, id));
        }
    }
}

fn people(system: &System, world: &World) -> Vec<Person> {
    world.tokens.iter().map(|token| Person::with(system.address, token)).collect()
}

/// The id that a repeated request gives.
async fn again(people: &mut [Person], request: &Request) -> Option<String> {
    support::eventually("a repeated request is answered", async || {
        match place(&mut people[request.customer], request.clone()).await {
            Entry::Taken(_, id) => Ok(Some(id)),
            Entry::Refused => Ok(None),
            Entry::Unknown(_) => Err(format!("{request:?}")),
        }
    })
    .await
}

/// Every order that was taken comes to its end, and is the same one still.
async fn all_end(system: &System, world: &World, journal: &Journal) {
    let mut people = people(system, world);
    for (request, id) in &journal.taken {
        let ended = people[request.customer].ended(&request.key, &request.order).await;
        assert_eq!(&ended.id(), id, "{request:?} gave another order");
        assert!(["confirmed", "cancelled"].contains(&ended.told().1), "{ended:?}");
    }
}
