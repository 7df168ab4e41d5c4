//! Drives one operation together with the writer it needs, and nothing else: so everything that happens has one order.
//!
//! Never here: what is done. How often a future is polled depends on the threads of SQLite and is never counted; where an
//! operation stops does not.

use std::{future::poll_fn, task::Poll};

use contract::Timestamp;
use futures_util::future::BoxFuture;

use crate::{clock::Clock, disk::Disk};

/// Something to do, as a future that owns what it needs.
pub(crate) type Operation<T = ()> = BoxFuture<'static, T>;

/// Where an operation stopped.
#[derive(Debug)]
pub(crate) enum Driven<T> {
    Done(T),
    /// It waits for the clock.
    Asleep(Timestamp),
    /// The process ended under it: drop everything.
    Crashed,
}

/// Drives an operation until it is done, sleeps, or its process ends.
pub(crate) async fn drive<T>(operation: &mut Operation<T>, writer: &mut Operation, clock: &Clock, disk: &Disk) -> Driven<T> {
    clock.listen();
    poll_fn(|context| {
        if let Poll::Ready(done) = operation.as_mut().poll(context) {
            return Poll::Ready(Driven::Done(done));
        }
        assert!(writer.as_mut().poll(context).is_pending(), "a writer ends only with its last door");
        if disk.has_crashed() {
            return Poll::Ready(Driven::Crashed);
        }
        clock.asleep().map_or(Poll::Pending, |until| Poll::Ready(Driven::Asleep(until)))
    })
    .await
}
