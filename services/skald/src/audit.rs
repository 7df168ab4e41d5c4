//! `skald audit`: reads the databases of all services and checks what must hold of them, apart from the code that wrote them.
//!
//! Never here: writing, or the services' own reading of their rows; of the project's code only the saga's table is asked, and the
//! connections are the log's. From here the flow goes as a report to the command line, the demo and the tests.

mod across;
mod laws;
mod notification;
mod order;
mod payment;
mod product;
mod progress;
mod report;
mod saga;
mod snapshot;
#[cfg(test)]
mod tests;
mod trail;
mod user;
mod value;

use eventlog::Database;

pub(crate) use report::Report;

use across::{Across, Newer};
use laws::Laws;
use notification::Notifications;
use order::Orders;
use payment::Payments;
use product::Products;
use snapshot::Snapshot;
use trail::Trails;

/// What to audit.
pub(crate) struct Options {
    /// Ask also what holds only of a system at rest: all ended, nothing open, nothing waiting.
    pub settled: bool,
    /// The five services by name, each with its database.
    pub services: Vec<(&'static str, Database)>,
}

/// Why there is no report. Each is for the person at the keyboard.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no database of the {service} service at {database}")]
    Missing { service: &'static str, database: String },
    #[error("the database of the {0} service was not named")]
    Unnamed(&'static str),
    #[error("{database} belongs to the service {owner}, not to {service}")]
    OtherService { service: &'static str, database: String, owner: String },
    #[error(transparent)]
    Open(eventlog::OpenError),
    #[error("can't read the database of the {service} service at {database}")]
    Read {
        service: &'static str,
        database: String,
        #[source]
        source: eventlog::Error,
    },
}

/// Reads everything and checks every law. The services may go on meanwhile: each database is read as of one instant, the order
/// database first, so that nothing which an ended order rests on can be missing elsewhere.
///
/// # Errors
/// [`Error`]: a database can't be read. A broken law is no error, it is in the report.
pub(crate) async fn run(options: &Options) -> Result<Report, Error> {
    let mut laws = Laws::new(options.settled);
    let mut trails = Trails::default();

    let mut snapshot = options.open("order").await?;
    let read = Orders::read(&mut snapshot, &mut trails, &mut laws).await;
    let mut orders = snapshot.close(read).await?;
    let (counts, waivers) = (orders.counts(), std::mem::take(&mut orders.waivers));
    let mut across = Across::new(&orders);

    let mut snapshot = options.open("product").await?;
    let read = Products::read(&mut snapshot, &mut trails, &mut laws).await;
    across.products(&snapshot.close(read).await?, &mut laws);

    let mut snapshot = options.open("payment").await?;
    let read = Payments::read(&mut snapshot, &mut trails, &mut laws).await;
    across.payments(&snapshot.close(read).await?, &mut laws);

    let mut snapshot = options.open("notification").await?;
    let read = Notifications::read(&mut snapshot, &mut trails, &mut laws).await;
    across.notifications(&snapshot.close(read).await?, &mut laws);

    let mut snapshot = options.open("user").await?;
    let read = user::read(&mut snapshot, &mut trails, &mut laws).await;
    snapshot.close(read).await?;

    let mut snapshot = options.open("order").await?;
    let mut newer = Newer::default();
    let read = trails.read_newer(&mut snapshot, |entry| newer.take(entry)).await;
    snapshot.close(read).await?;
    across.finish(&newer, &mut laws);

    let messages = trails.messages;
    trails.finish(&mut laws);
    Ok(Report::new(options.settled, counts, messages, laws.into_vec(), waivers))
}

impl Options {
    async fn open(&self, service: &'static str) -> Result<Snapshot, Error> {
        let named = self.services.iter().find(|(name, _)| *name == service);
        let (_, database) = named.ok_or(Error::Unnamed(service))?;
        Snapshot::open(service, database).await
    }
}
