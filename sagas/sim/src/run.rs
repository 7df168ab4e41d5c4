//! One run from its seed to its judgement: faults, then calm, then nothing left to do.
//!
//! Never here: one step. A run that goes wrong tells in one line how to see it again.

use std::{path::Path, time::Duration};

use anyhow::Context as _;

use crate::{
    check::{self, View},
    choose::Step,
    replica::Name,
    trace::Trace,
    world::{Counts, Plan, World},
};

/// Safety is checked at least this often, in steps.
const CHECKED_EVERY: u64 = 1_000;
/// Nothing waits for longer than minutes, whatever clocks have shown.
const CALM_MAX: Duration = Duration::from_secs(30 * 60);
/// What is told of a failure.
const TOLD_MAX: usize = 8;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Well,
    /// Something happened that never may.
    Unsafe(Vec<String>),
    /// Something did not happen that must.
    Stuck(Vec<String>),
}

/// What a run was.
#[derive(Clone, Debug)]
pub struct Summary {
    pub ended: Ended,
    /// Orders that customers asked for.
    pub orders: usize,
    pub confirmed: usize,
    pub steps: u64,
    /// Over every line of the trace and every row of the logs.
    pub hash: u64,
    pub counts: Counts,
    pub last_lines: Vec<String>,
}

/// Runs a plan in an empty directory.
///
/// # Errors
/// The machine's own: no directory, no database. What the simulated system does wrong is in the summary.
pub async fn simulate(plan: Plan, directory: &Path) -> anyhow::Result<Summary> {
    let mut world = World::open(plan, directory).await.context("the world does not open")?;
    let ended = live(&mut world).await?;
    let view = View::of(&world).await?;
    for (name, books) in &view.services {
        for row in &books.rows {
            let line = format!("{} {} {} {} {}", name.as_str(), row.position, row.id, row.stream, row.data);
            world.trace.mix(line.as_bytes());
        }
    }
    let confirmed = view.log(Name::Order).iter().filter(|row| row.kind == "order.OrderConfirmed").count();
    Ok(summary(&world.trace, world.counts, plan, ended, confirmed))
}

fn summary(trace: &Trace, counts: Counts, plan: Plan, ended: Ended, confirmed: usize) -> Summary {
    let last_lines = trace.last_lines().map(str::to_owned).collect();
    Summary { ended, orders: plan.orders, confirmed, steps: trace.events(), hash: trace.hash(), counts, last_lines }
}

async fn live(world: &mut World) -> anyhow::Result<Ended> {
    let (mut steps, mut calm_steps, mut calm_since) = (0, 0, world.clock.now());
    loop {
        if !world.is_calm && steps >= world.plan.faulty_steps {
            world.is_calm = true;
            world.post.be_faulty(0);
            calm_since = world.clock.now();
            world.say(format_args!("calm"));
            world.set_clocks_right();
        }
        steps += 1;
        calm_steps += u64::from(world.is_calm);
        if calm_steps > world.plan.calm_steps_max {
            let (_, missing) = check::at_the_end(&View::of(world).await?);
            return Ok(Ended::Stuck(short([vec!["it never comes to rest".to_owned()], missing].concat())));
        }
        match next(world) {
            Some(step) => world.act(step).await?,
            None if !wait(world).await? => break,
            None => {}
        }
        if steps % CHECKED_EVERY == 0 {
            let wrong = [std::mem::take(&mut world.wrong), check::safety(&View::of(world).await?)].concat();
            if !wrong.is_empty() {
                return Ok(Ended::Unsafe(short(wrong)));
            }
        }
    }
    let (wrong, mut missing) = check::at_the_end(&View::of(world).await?);
    let took = world.clock.now().since(calm_since);
    if took > CALM_MAX {
        missing.push(format!("instants-bounded: it took {} s of calm until everything had ended", took.as_secs()));
    }
    let wrong = [std::mem::take(&mut world.wrong), wrong].concat();
    Ok(match (wrong.is_empty(), missing.is_empty()) {
        (false, _) => Ended::Unsafe(short(wrong)),
        (true, false) => Ended::Stuck(short(missing)),
        (true, true) => Ended::Well,
    })
}

fn next(world: &mut World) -> Option<Step> {
    let mut steps = world.steps();
    let chosen = world.chance.weighted(steps.iter().map(|(_, weight)| *weight))?;
    Some(steps.swap_remove(chosen).0)
}

/// Nothing can happen now: time passes until something can. False if nothing ever will.
async fn wait(world: &mut World) -> anyhow::Result<bool> {
    world.look_up_due().await?;
    // A gap that a lost message left closes by itself once somebody has published everything again and everybody has read it.
    if world.has_settled() {
        world.look_up_gaps().await?;
    }
    if let Some(instant) = world.next_instant() {
        world.clock.advance_to(instant);
        world.say(format_args!("time passes"));
        return Ok(true);
    }
    Ok(next(world).is_some())
}

fn short(mut told: Vec<String>) -> Vec<String> {
    let more = told.len().saturating_sub(TOLD_MAX);
    told.truncate(TOLD_MAX);
    if more > 0 {
        told.push(format!("and {more} more"));
    }
    told
}
