//! `sim`: runs seeds, and exits with what it found: 0 nothing, 2 a crash, 3 a broken promise, 4 something that never ends.
//!
//! Never here: the simulation. 64 is a command line that makes no sense.

use std::{panic::AssertUnwindSafe, process::ExitCode};

use clap::{Parser, error::ErrorKind};
use skald_sim::{Ended, Plan, Summary, simulate};

/// Runs the whole shop on a seed: production code, one step at a time, with faults and then calm
#[derive(Parser)]
#[command(name = "sim")]
struct Arguments {
    /// The first seed; a random one if none is told
    #[arg(long)]
    seed: Option<u64>,
    /// Orders in one run
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=2_000))]
    orders: u16,
    /// Runs, each on the next seed; 0 goes on until one fails
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// No faults at all
    #[arg(long)]
    calm: bool,
    /// Prints every step
    #[arg(long)]
    trace: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let is_asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A closed terminal is no reason to fail otherwise.
            let _ = error.print();
            return ExitCode::from(if is_asked { 0 } else { 64 });
        }
    };
    let env = eventlog::Env::system();
    let first = arguments.seed.unwrap_or_else(|| env.random() >> 32);
    let began = env.now();
    let (mut orders, mut confirmed, mut runs) = (0, 0, 0);
    loop {
        let seed = first.wrapping_add(runs);
        let mut plan = Plan::new(seed, usize::from(arguments.orders));
        plan.is_traced = arguments.trace;
        if arguments.calm {
            plan.faulty_steps = 0;
        }
        let code = match run(plan) {
            Ok(summary) => {
                orders += summary.orders;
                confirmed += summary.confirmed;
                report(plan, &summary)
            }
            Err(code) => code,
        };
        if code != 0 {
            println!("replay with: just sim {seed} --orders {}", arguments.orders);
            return ExitCode::from(code);
        }
        runs += 1;
        if runs == arguments.runs || runs % 100 == 0 {
            let seconds = env.now().since(began).as_secs_f64();
            let rate = orders as f64 / seconds.max(0.001);
            println!(
                "{runs} runs from seed {first}: {orders} orders, {confirmed} confirmed, {seconds:.1} s, {rate:.0} orders a second"
            );
        }
        if runs == arguments.runs {
            return ExitCode::SUCCESS;
        }
    }
}

/// One run on a thread's own runtime; the code of a crash if it panics.
fn run(plan: Plan) -> Result<Summary, u8> {
    let simulated = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let memory = std::path::Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory)? } else { tempfile::tempdir()? };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        runtime.block_on(simulate(plan, directory.path()))
    }));
    match simulated {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err(error)) => {
            println!("seed {}: {error:#}", plan.seed);
            Err(2)
        }
        Err(_) => {
            println!("seed {}: a crash; `--trace` shows the steps before it", plan.seed);
            Err(2)
        }
    }
}

fn report(plan: Plan, summary: &Summary) -> u8 {
    let (what, told, code) = match &summary.ended {
        Ended::Well => {
            if plan.is_traced {
                println!("seed {}: hash {:016x}, {} steps, {:?}", plan.seed, summary.hash, summary.steps, summary.counts);
            }
            return 0;
        }
        Ended::Unsafe(told) => ("SAFETY", told, 3),
        Ended::Stuck(told) => ("LIVENESS", told, 4),
    };
    for line in &summary.last_lines {
        println!("{line}");
    }
    println!("seed {}: {what}, after {} steps, {} orders", plan.seed, summary.steps, summary.orders);
    told.iter().for_each(|told| println!("  {told}"));
    code
}
