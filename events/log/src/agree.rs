//! What time it is for a database: PostgreSQL's own clock, which all of its clients share; on SQLite that of the one process that has it.
//!
//! Never here: how a process' clock follows, which is `steady.rs`.

use std::time::Duration;

use contract::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{Conn, Env, Error, Log, db::Owned};

/// How often a process asks the database for the time.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The time of the database behind `conn`.
pub(crate) async fn time(conn: &mut Conn<'_>, env: &Env) -> Result<Timestamp, sqlx::Error> {
    let Conn::Postgres(connection) = conn else { return Ok(env.now()) };
    let sql = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint";
    Ok(Timestamp(sqlx::query_scalar(sql).fetch_one(&mut **connection).await?))
}

/// Has this process' clock follow the database's.
async fn agree(conn: &mut Conn<'_>, env: &Env) -> Result<(), sqlx::Error> {
    if let Conn::Postgres(_) = conn {
        let asked = env.now();
        let time = time(conn, env).await?;
        env.agree(time, env.now().since(asked));
    }
    Ok(())
}

/// The same before anything is written: twice, as the first answer on a connection has to be prepared.
pub(crate) async fn first(connection: &mut Owned, env: &Env) -> Result<(), sqlx::Error> {
    agree(&mut connection.conn(), env).await?;
    agree(&mut connection.conn(), env).await
}

impl Log {
    /// Goes by the database's clock until `stop`. Nothing to do on SQLite.
    pub async fn keep_time(self, stop: CancellationToken) {
        while stop.run_until_cancelled(self.env().sleep(ASK_EVERY)).await.is_some() {
            let asked = async { Ok::<_, Error>(agree(&mut self.reader().await?.conn(), self.env()).await?) };
            if let Err(error) = asked.await {
                tracing::debug!(service = self.service(), %error, "can't ask the database for the time now");
            }
        }
    }
}
