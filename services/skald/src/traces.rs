//! Where traces go, as flags: of `up`, `demo`, `serve`, and of a redrive, which is a trace too.
//!
//! Never here: spans; `kit::telemetry` makes and exports them.

use std::sync::Arc;

use eventlog::{Env, Memory};
use kit::{
    Telemetry,
    telemetry::{Receiver, Share},
};

use crate::assemble::Name;

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct TraceArgs {
    /// Where to send traces: a receiver of OTLP over gRPC, such as http://127.0.0.1:4317; without it there are none
    #[arg(long, env = "SKALD_OTLP", value_name = "URL")]
    otlp: Option<Receiver>,
    /// Which share of the traces that begin here is recorded, from 0 to 1; what a caller has decided of its own holds
    #[arg(long, env = "SKALD_TRACE_SAMPLE", value_name = "SHARE", default_value = "1")]
    trace_sample: Share,
}

/// What a process does things by, and what hears of them, if something does.
pub(crate) struct Traced {
    pub env: Env,
    telemetry: Option<Arc<Telemetry>>,
}

impl TraceArgs {
    /// Begins to export, if there is somewhere to export to.
    pub(crate) fn start(&self) -> Traced {
        let Some(receiver) = &self.otlp else { return Traced::by_nobody() };
        let env = Env::system();
        let names: Vec<&str> = Name::all().iter().map(|name| name.as_str()).collect();
        let telemetry = Telemetry::start(receiver, self.trace_sample, &names, env!("CARGO_PKG_VERSION"), &env);
        Traced { env: env.with_observer(telemetry.clone()), telemetry: Some(telemetry) }
    }
}

impl Traced {
    pub(crate) fn by_nobody() -> Self {
        Self { env: Env::system(), telemetry: None }
    }

    /// The same, in a process that has so much memory for messages and requests.
    pub(crate) fn with_memory(self, memory: Memory) -> Self {
        Self { env: self.env.with_memory(memory), ..self }
    }

    /// Sends what is left, for some seconds at most.
    pub(crate) async fn stop(self) {
        if let Some(telemetry) = self.telemetry {
            telemetry.stop().await;
        }
    }
}
