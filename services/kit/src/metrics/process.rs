//! What is measured of the process and of the runtime that carries its tasks.
//!
//! The process' own figures are read from `/proc`, under the names that Prometheus' clients give them; where there is no `/proc`
//! they are missing.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use tokio::runtime::Handle;

/// Reads them when they are asked for.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(stat) = Stat::read() {
            counter(&mut to, "process_cpu_seconds", "Processor time, of the process and of the system for it", stat.cpu_seconds)?;
            gauge(&mut to, "process_resident_memory_bytes", "Memory in use", stat.resident_bytes)?;
            gauge(&mut to, "process_start_time_seconds", "When the process started, since 1970", stat.start_seconds)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            gauge(&mut to, "process_open_fds", "Open files and sockets", open.count() as f64)?;
        }
        if let Ok(handle) = Handle::try_current() {
            let metrics = handle.metrics();
            let busy: f64 = (0..metrics.num_workers()).map(|n| metrics.worker_total_busy_duration(n).as_secs_f64()).sum();
            gauge(&mut to, "runtime_workers", "Threads that carry tasks", metrics.num_workers() as f64)?;
            gauge(&mut to, "runtime_alive_tasks", "Tasks that have not ended", metrics.num_alive_tasks() as f64)?;
            gauge(&mut to, "runtime_queue_depth", "Tasks that wait for a thread", metrics.global_queue_depth() as f64)?;
            counter(&mut to, "runtime_busy_seconds", "Time that the threads were busy, together", busy)?;
        }
        Ok(())
    }
}

fn gauge(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> std::fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> std::fmt::Result {
    to.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
}

struct Stat {
    cpu_seconds: f64,
    resident_bytes: f64,
    start_seconds: f64,
}

/// Of `/proc`'s times; every Linux that Rust runs on says 100.
const TICKS_PER_SECOND: f64 = 100.0;

impl Stat {
    fn read() -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        Self::parse(&read("/proc/self/stat")?, &read("/proc/self/status")?, &read("/proc/stat")?)
    }

    /// Source: `man 5 proc`.
    fn parse(stat: &str, status: &str, system: &str) -> Option<Self> {
        // The name of the process comes before it in brackets, and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
        let line = |text: &str, name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
        };
        let resident_kib: f64 = line(status, "VmRSS:")?;
        let boot: f64 = line(system, "btime ")?;
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            resident_bytes: resident_kib * 1024.0,
            start_seconds: boot + ticks(22)? / TICKS_PER_SECOND,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1000 1 2 3";
        let stat = Stat::parse(stat, "Name:\tx\nVmRSS:\t  2048 kB\n", "cpu 1\nbtime 1700000000\n").unwrap();
        assert_eq!((stat.cpu_seconds, stat.resident_bytes, stat.start_seconds), (3.0, 2_097_152.0, 1_700_000_010.0));
    }

    #[test]
    fn what_is_cut_short_is_not_read() {
        assert!(Stat::parse("7 (a) S 1", "VmRSS: 1 kB", "btime 1").is_none());
    }
}
