//! What an operator does to accounts by hand, on the database of the user service: the way in where no admin can log in.
//!
//! Never here: what a role or a password is (`user`). The service may be running meanwhile: it takes note of a role within a minute.

use std::process::ExitCode;

use clap::Subcommand;
use eventlog::Env;
use kit::{Secret, Tasks, auth::Role};
use user::NotGiven;

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
    /// Sets the password of an account, which ends all of its sessions
    Password {
        /// The address of the account
        #[arg(value_name = "EMAIL")]
        email: String,
        /// File with the new password, 12-128 characters; /dev/stdin to be asked by the terminal
        #[arg(long, value_name = "FILE", value_parser = Secret::read)]
        password_file: Secret,
        #[command(flatten)]
        database: Which,
    },
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "it is customer, operator or admin".to_owned())
}

pub(crate) async fn users(command: Users) -> ExitCode {
    let (Users::Role { database, .. } | Users::Password { database, .. }) = &command;
    let database = match database.database() {
        Ok(database) => database,
        Err(why) => return cli::usage(&why),
    };
    let opened = match database::once(Name::User, &database, &Env::system()).await {
        Ok(opened) => opened,
        Err(error) => return cli::environment(&error),
    };
    let (log, tasks) = (opened.log.clone(), Tasks::new());
    let done = match command {
        Users::Role { email, role, reason, .. } => {
            let given = user::give_role(opened, &tasks, &email, role, &reason, actor()).await;
            given.map(|changed| format!("{email} is {}{}", role.as_str(), if changed { "" } else { " already" }))
        }
        Users::Password { email, password_file: Secret(password), .. } => {
            let set = user::set_password(opened, &tasks, &email, &password, actor()).await;
            set.map(|()| format!("{email} has the new password; all sessions are ended"))
        }
    };
    tasks.stop(database::ATTEMPT).await;
    log.close().await;
    match done {
        Ok(told) => {
            out::line(format_args!("{told}"));
            ExitCode::SUCCESS
        }
        Err(NotGiven::Log(error)) => cli::environment(&error),
        Err(refused) => {
            out::aside(format_args!("error: {refused}"));
            ExitCode::from(EXIT_VERDICT)
        }
    }
}
