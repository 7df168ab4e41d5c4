//! What an operator does by hand: topics, the relay's checkpoint, epochs, dead letters.
//!
//! Never here: how it is done (`bus`, `eventlog`), or when; each error message of a running service names its command.

use std::process::ExitCode;

use bus::{
    Consumer,
    kafka::{self, Difference, Kafka},
};
use clap::{Parser, Subcommand};
use contract::{Cause, DeadLetter, MessageKeys, Meta, Source, record, topics};
use eventlog::{Arrived, Database, Desk, Env, Job, Listed, Log, Moved, Poison, Redriven};

use crate::{
    assemble::Name,
    cli::{self, EXIT_VERDICT},
    database::{self, Which},
    kafka::{KafkaArgs, KeyArgs},
    traces::TraceArgs,
    up::Services,
};

/// One line for the person at the keyboard. A reader that has gone, such as `head`, must not end what is under way.
macro_rules! say {
    ($($words:tt)*) => {{
        $crate::out::line(format_args!($($words)*));
    }};
}

#[derive(Subcommand)]
pub(crate) enum Topics {
    /// Makes the topics that are missing; tells which others differ, and leaves them as they are
    Apply(TopicsArgs),
    /// Tells which topics are missing or differ; exit code 1 if any does
    Check(TopicsArgs),
}

#[derive(clap::Args)]
pub(crate) struct TopicsArgs {
    /// Copies of each partition; a cluster of one broker has room for 1
    #[arg(long, env = "SKALD_REPLICATION", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=32))]
    replication: i32,
    #[command(flatten, next_help_heading = "Kafka")]
    kafka: KafkaArgs,
}

pub(crate) async fn topics(command: Topics) -> ExitCode {
    let (Topics::Apply(args) | Topics::Check(args)) = &command;
    let kafka = match args.kafka.settings() {
        Ok(settings) => Kafka::new(settings),
        Err(why) => return cli::usage(&why),
    };
    let done = match &command {
        Topics::Apply(_) => kafka::apply(&kafka, args.replication).await,
        Topics::Check(_) => kafka::check(&kafka, Some(args.replication)).await.map(|differences| (Vec::new(), differences)),
    };
    match done {
        Ok((made, differences)) => {
            for topic in &made {
                say!("made {topic}");
            }
            tell(&differences, made.is_empty())
        }
        Err(error) => cli::environment(&error),
    }
}

fn tell(differences: &[Difference], is_all: bool) -> ExitCode {
    for difference in differences {
        say!("{difference}");
    }
    if !differences.is_empty() {
        return ExitCode::from(EXIT_VERDICT);
    }
    if is_all {
        say!("all topics are as they should be");
    }
    ExitCode::SUCCESS
}

#[derive(Subcommand)]
pub(crate) enum Relay {
    /// Publishes again what follows a position; consumers skip what they have handled already
    Rewind {
        /// The last position that is not published again
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(0..))]
        to: i64,
        #[command(flatten)]
        database: Which,
    },
}

#[derive(Subcommand)]
pub(crate) enum LogCommand {
    /// Goes on after lost commits: rows from a position on are published as others than those that were lost
    NewEpoch {
        /// The first position whose message was lost, as the relay tells it
        #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
        from: i64,
        #[command(flatten)]
        database: Which,
    },
    /// Has a service believe messages of a log, or of an epoch of it, that it did not know: one that was made anew, or restored
    Trust {
        /// As `new-epoch` and the dead letters tell it: /skald/<service>/<log id>/<epoch>
        #[arg(long, value_name = "SOURCE", value_parser = source)]
        source: Source,
        /// Of the service that reads it
        #[command(flatten)]
        database: Which,
    },
}

fn source(text: &str) -> Result<Source, String> {
    text.parse().map_err(|error: record::BadSource| error.to_string())
}

pub(crate) async fn relay(command: Relay) -> ExitCode {
    let Relay::Rewind { to, database } = command;
    match with_desk(&database, async |mut desk| desk.rewind(to).await.map(|moved| (desk.service, moved))).await {
        Ok((service, Moved { position_before, position, head, .. })) => {
            say!("{service}: published up to {position_before} before; again from {} on, up to {head}", position + 1);
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

pub(crate) async fn log(command: LogCommand) -> ExitCode {
    let (from, database) = match command {
        LogCommand::NewEpoch { from, database } => (from, database),
        LogCommand::Trust { source, database } => return trust(&source, &database).await,
    };
    let now = Env::system().now();
    match with_desk(&database, async |mut desk| {
        let moved = desk.new_epoch(from, now).await?;
        Ok((desk.source(moved.epoch).await?, moved))
    })
    .await
    {
        Ok((source, Moved { position, head, epoch, .. })) => {
            let service = &source.service;
            match head - position {
                0 => say!("{service}: epoch {epoch} begins at {from}, with the next message"),
                _ => say!("{service}: epoch {epoch} begins at {from}; publishing goes on from {} to {head}", position + 1),
            }
            for reader in eventlog::readers_of(service) {
                say!(
                    "Without a message key {reader} is told of it: skald log trust --source {source} --database <that of {reader}>"
                );
            }
            say!("What the other services did about the lost messages stays done: run skald audit");
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

async fn trust(source: &Source, database: &Which) -> ExitCode {
    match with_desk(database, async |mut desk| desk.trust(source).await.map(|trusted| (desk.service, trusted))).await {
        Ok((reader, 0)) => {
            say!("{reader}: knows {source} already");
            ExitCode::SUCCESS
        }
        Ok((reader, trusted)) => {
            say!("{reader}: believes {source} from now on, in {trusted} partitions");
            say!("What has come of it before is a dead letter: skald relay rewind has it published again");
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

async fn with_desk<T>(which: &Which, work: impl AsyncFnOnce(Desk) -> Result<T, eventlog::Refused>) -> Result<T, ExitCode> {
    let database = which.database().map_err(|why| cli::usage(&why))?;
    let desk = Desk::open(&database).await.map_err(|error| cli::environment(&error))?;
    work(desk).await.map_err(|error| cli::environment(&error))
}

#[derive(clap::Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    command: Letters,
}

#[derive(Subcommand)]
enum Letters {
    /// Lists the dead letters of one service, oldest first, and what waits for a missing message
    List {
        /// Also those that are solved
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        database: Which,
    },
    /// Shows one with its whole record, as JSON
    Show {
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        database: Which,
    },
    /// Handles dead letters again, here and now, without sending them through their topic; never what is forged
    Redrive {
        /// Which; all that are unsolved if none is named
        #[arg(value_name = "ID")]
        ids: Vec<String>,
        /// Only tell what would come of it
        #[arg(long)]
        dry_run: bool,
        /// Leave those alone that were redriven so often already
        #[arg(long, value_name = "TIMES", default_value_t = 5)]
        max_replays: i64,
        #[command(flatten)]
        message_keys: KeyArgs,
        #[command(flatten)]
        database: Which,
        #[command(flatten, next_help_heading = "Traces")]
        traces: TraceArgs,
    },
    /// Puts one down for good, unhandled; the log keeps it, and who did it
    Discard {
        /// Its id; of a waiting message, what `list` shows
        #[arg(value_name = "ID", required_unless_present = "forged", conflicts_with = "forged")]
        id: Option<String>,
        /// All that are forged, which nobody can want to be handled
        #[arg(long)]
        forged: bool,
        /// Why; kept in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        database: Which,
    },
}

/// Dead letters read at a time.
const PAGE: i64 = 256;

pub(crate) async fn dead_letters(DeadLetters { command }: DeadLetters) -> ExitCode {
    let (Letters::List { database, .. }
    | Letters::Show { database, .. }
    | Letters::Redrive { database, .. }
    | Letters::Discard { database, .. }) = &command;
    let database = match database.database() {
        Ok(database) => database,
        Err(why) => return cli::usage(&why),
    };
    let done = match command {
        Letters::List { all, .. } => list(&database, all).await,
        Letters::Show { id, .. } => show(&database, &id).await,
        Letters::Redrive { ids, dry_run, max_replays, message_keys, traces, .. } => {
            let keys = match message_keys.keys() {
                Ok(keys) => keys,
                Err(why) => return cli::usage(&why),
            };
            let traced = traces.start(true);
            let done = redrive(&database, &traced.env, &keys, ids, dry_run, max_replays).await;
            traced.stop().await;
            done
        }
        Letters::Discard { id, forged, reason, .. } => match id {
            Some(id) if !forged => discard(&database, &id, &reason).await,
            _ => discard_forged(&database, &reason).await,
        },
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            crate::out::aside(format_args!("error: {error:#}"));
            ExitCode::from(cli::EXIT_ENVIRONMENT)
        }
    }
}

async fn list(database: &Database, all: bool) -> anyhow::Result<ExitCode> {
    let (mut last, mut count) = (None, 0);
    loop {
        let page = eventlog::dead_letters(database, all, last.as_deref(), PAGE).await?;
        for Listed { stream, kind, letter, replays, since, is_solved } in &page {
            let state = if *is_solved { "solved" } else { "open" };
            say!(
                "{}  {state}  {since}  {} partition {} offset {}  {kind}  {}, {replays} replays: {}",
                id_of(stream),
                letter.topic,
                letter.partition,
                letter.offset,
                letter.cause.as_str(),
                letter.error
            );
        }
        count += page.len();
        match page.last() {
            Some(Listed { stream, .. }) => last = Some(stream.clone()),
            None => break,
        }
    }
    let waiting = eventlog::parked(database).await?;
    for parked in &waiting {
        say!(
            "{}  waits  {}  {} partition {} offset {}  for message {} of {}: skald relay rewind publishes it again",
            parked.id,
            parked.since,
            parked.topic,
            parked.partition,
            parked.offset,
            parked.previous,
            parked.source
        );
    }
    if count + waiting.len() == 0 {
        say!("no dead letters, and nothing waits");
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(database: &Database, id: &str) -> anyhow::Result<ExitCode> {
    let found = find(database, id).await?;
    say!("{}", serde_json::to_string_pretty(&found.letter)?);
    Ok(ExitCode::SUCCESS)
}

async fn discard(database: &Database, id: &str, reason: &str) -> anyhow::Result<ExitCode> {
    let log = open(database, &Env::system()).await?;
    let is_done = if id.starts_with("parked-") {
        eventlog::discard_parked(&log, id, &actor(), reason).await?
    } else {
        eventlog::discard(&log, &find(database, id).await?, &actor(), reason).await?
    };
    say!("{id}: {}", if is_done { "put down" } else { "solved already, or not there" });
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_VERDICT) })
}

/// Puts down every open dead letter that is forged: a forger makes many.
async fn discard_forged(database: &Database, reason: &str) -> anyhow::Result<ExitCode> {
    let log = open(database, &Env::system()).await?;
    let mut count = 0;
    for listed in open_ones(database).await?.iter().filter(|listed| listed.letter.cause == Cause::Forged) {
        count += usize::from(eventlog::discard(&log, listed, &actor(), reason).await?);
    }
    say!("{count} forged dead letters put down");
    Ok(ExitCode::SUCCESS)
}

/// All that nobody has solved.
async fn open_ones(database: &Database) -> anyhow::Result<Vec<Listed>> {
    let (mut letters, mut last) = (Vec::new(), None::<String>);
    loop {
        let page = eventlog::dead_letters(database, false, last.as_deref(), PAGE).await?;
        let Some(newest) = page.last() else { return Ok(letters) };
        last = Some(newest.stream.clone());
        letters.extend(page);
    }
}

async fn redrive(
    database: &Database,
    env: &Env,
    keys: &MessageKeys,
    ids: Vec<String>,
    dry_run: bool,
    max_replays: i64,
) -> anyhow::Result<ExitCode> {
    let mut letters = Vec::new();
    for id in &ids {
        letters.push(find(database, id).await?);
    }
    if ids.is_empty() {
        letters = open_ones(database).await?;
    }
    let log = open(database, env).await?;
    let Knobs { services } = Knobs::try_parse_from(["skald"])?;
    let mut is_good = true;
    for listed in letters {
        if listed.replays >= max_replays {
            say!("{}: redriven {} times already; left alone (--max-replays)", id_of(&listed.stream), listed.replays);
            is_good = false;
            continue;
        }
        let redriven = match (forged(&log, keys, &listed.letter).await?, log.service()) {
            (Some(why), _) => Redriven::Never(why),
            (None, "order") => handle(&log, &order::handler(&services.order), &listed, dry_run).await?,
            (None, "product") => handle(&log, &product::Handler, &listed, dry_run).await?,
            (None, "payment") => handle(&log, &payment::handler(&services.payment), &listed, dry_run).await?,
            (None, "notification") => handle(&log, &notification::handler(&services.notification), &listed, dry_run).await?,
            (None, other) => anyhow::bail!("the service {other} consumes nothing"),
        };
        let (told, is_handled) = match redriven {
            Redriven::Handled(rows) => {
                let would = if dry_run { "would be handled" } else { "handled" };
                (format!("{would}; appended: {}", if rows.is_empty() { "nothing".to_owned() } else { rows.join(", ") }), true)
            }
            Redriven::Still(Poison { cause, error }) => (format!("still {}: {error}", cause.as_str()), false),
            Redriven::Never(why) => (format!("never handled: {why}"), false),
            Redriven::Taken => ("solved already, or somebody else is at it".to_owned(), false),
        };
        say!("{} ({}, {}): {told}", id_of(&listed.stream), listed.kind, listed.letter.cause.as_str());
        is_good &= is_handled;
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_VERDICT) })
}

/// Why a dead letter must not be handled although it can be read: its cause is believed no more than its record was. Read out of another
/// log directly (`skald up`) it never passed anybody's hands.
async fn forged(log: &Log, keys: &MessageKeys, letter: &DeadLetter) -> anyhow::Result<Option<String>> {
    let DeadLetter { consumer, topic, partition, offset, cause, record, .. } = letter;
    let Some(topic) = topics::TOPICS.iter().find(|known| known.name == *topic) else { return Ok(None) };
    let found = kafka::incoming_with(keys, topic, i32::try_from(*partition)?, *offset, record.clone());
    let decoded = record::decode(topic.name, record).ok();
    let is_direct = decoded.as_ref().is_some_and(|(_, link)| link.source.log.is_nil());
    if keys.is_empty() && (is_direct || *cause == Cause::Forged) {
        return Ok(None);
    }
    if let Some((_, link)) = &decoded
        && keys.is_empty()
        && link.seal.text().is_some()
    {
        return Ok(Some("it is signed: --message-key-file says by whose key that is checked".to_owned()));
    }
    Ok(match (&found.message, found.poison) {
        (_, Some(poison)) if poison.cause == Cause::Forged => Some(poison.error),
        // What can't be read is told by trying.
        (_, Some(_)) | (Arrived::Raw(_) | Arrived::Row(_), None) => None,
        (Arrived::Linked(_, _), None) if *cause == Cause::Undecodable => Some(
            "it could not be read when it came, and has lost its place: skald relay rewind has it published again".to_owned(),
        ),
        (Arrived::Linked(_, link), None) => {
            let has_place = log.has_seen(consumer, topic.name, *partition, link).await?;
            (!has_place).then(|| format!("{} was never seen up to {} here", link.source, link.sequence))
        }
    })
}

/// The services' knobs as their environment variables say: a redrive decides as the running service would.
#[derive(Parser)]
struct Knobs {
    #[command(flatten)]
    services: Services,
}

async fn handle<H: Consumer>(log: &Log, handler: &H, listed: &Listed, dry_run: bool) -> Result<Redriven, eventlog::Error> {
    let work = match record::decode(&listed.letter.topic, &listed.letter.record) {
        Err(error) => Err(Poison::new(Cause::Undecodable, error.to_string())),
        Ok((message, _)) => match handler.accept(&message) {
            Ok(Some(work)) => {
                let (meta, _) = message.redriven(&listed.letter.consumer, listed.replays, log.env().now());
                Ok(Job { work, meta: Meta { actor: Some(actor()), ..meta } })
            }
            // Whatever set it aside was not its doing: there is nothing to handle, so that it is solved.
            Ok(None) => {
                let reason = "it is of no interest to this service, so nothing was to be done";
                let is_solved = dry_run || eventlog::discard(log, listed, &actor(), reason).await?;
                return Ok(if is_solved { Redriven::Handled(Vec::new()) } else { Redriven::Taken });
            }
            Err(poison) => Err(poison),
        },
    };
    eventlog::redrive(log, handler, listed, work, &actor(), dry_run).await
}

async fn find(database: &Database, id: &str) -> anyhow::Result<Listed> {
    let stream = format!("dead-letter-{}", id_of(id));
    let found = eventlog::dead_letter(database, &stream).await?;
    found.ok_or_else(|| anyhow::anyhow!("there is no dead letter {id} here; see skald dead-letters list --all"))
}

/// Opens the log of whichever service the database belongs to.
async fn open(database: &Database, env: &Env) -> anyhow::Result<Log> {
    let service = Desk::open(database).await?.service;
    let name = Name::all().iter().find(|name| name.as_str() == service);
    let name =
        name.ok_or_else(|| anyhow::anyhow!("the database belongs to the service {service}, which this build does not know"))?;
    Ok(database::once(*name, database, env).await?.log)
}

fn id_of(stream: &str) -> &str {
    stream.strip_prefix("dead-letter-").unwrap_or(stream)
}

/// Who did it: whoever is logged in at this machine.
pub(crate) fn actor() -> String {
    format!("operator:{}", std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()))
}
