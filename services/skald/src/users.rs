//! What an operator does to accounts by hand, on the database of the user service: the way in where no admin can log in.
//!
//! Never here: what a role is or may do (`user`). The service may be running meanwhile: it takes note within a minute.

use std::{fmt::Display, process::ExitCode};

use clap::Subcommand;
use eventlog::Env;
use kit::{Tasks, auth::Role};

use crate::{
    assemble::Name,
    cli::{self, EXIT_VERDICT},
    database::{self, Which},
    operate::actor,
    out,
};

#[derive(Subcommand)]
pub(crate) enum Users {
    /// Gives an account another role, and records why
    Role {
        /// The address of the account
        #[arg(value_name = "EMAIL")]
        email: String,
        /// What it may do from here on: customer, operator or admin
        #[arg(value_name = "ROLE", value_parser = role)]
        role: Role,
        /// Why; kept in the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        database: Which,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "it is customer, operator or admin".to_owned())
}

pub(crate) async fn users(command: Users) -> ExitCode {
    let Users::Role { email, role, reason, database } = command;
    let database = match database.database() {
        Ok(database) => database,
        Err(why) => return cli::usage(&why),
    };
    let opened = match database::once(Name::User, &database, &Env::system()).await {
        Ok(opened) => opened,
        Err(error) => return cli::environment(&error),
    };
    let (log, tasks) = (opened.log.clone(), Tasks::new());
    let given = user::give_role(opened, &tasks, &email, role, &reason, actor()).await;
    tasks.stop(database::ATTEMPT).await;
    log.close().await;
    match given {
        Ok(changed) => {
            let told: &dyn Display = if changed { &"" } else { &" already" };
            out::line(format_args!("{email} is {}{told}", role.as_str()));
            ExitCode::SUCCESS
        }
        Err(user::NotGiven::Log(error)) => cli::environment(&error),
        Err(refused) => {
            out::aside(format_args!("error: {refused}"));
            ExitCode::from(EXIT_VERDICT)
        }
    }
}
