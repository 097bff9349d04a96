//! The gateways that are searched: one in a process of its own, whose log is read, and one whose spans are read.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use gateway_core::card::CardSource;
use gateway_core::connector::{
    Answer, Capabilities, Connector, Control, Fault, LookUp, NotSent, Payer, PrepareError,
    Prepared, ReversalForm, SendGate, Subject, Undo,
};
use gateway_core::draft::Draft;
use gateway_core::operation::Verb;
use gateway_core::token::TokenHealth;
use gateway_http::assemble::{Seams, pieces};
use gateway_http::config::Config;
use gateway_http::gateway::{Gateway, Pieces};
use gateway_http::{server, sinks};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use sandbox::stack::{GatewayOptions, Process, eventually};
use tokio::runtime::Runtime;
use tracing_subscriber::layer::SubscriberExt;

use super::PATIENCE;
use super::search::Canary;
use super::sinks::{Sink, Tap};

/// Amounts at which the payment's task panics.
pub(super) const PANICS: i64 = 1_313_00;
pub(super) const PANICS_WITH_CARD: i64 = 1_314_00;

const CONFIG: &str = "CANARY_GATEWAY_CONFIG";

/// Panics in the task of a payment, with what it holds in the message.
#[derive(Debug)]
struct Panicking(Arc<dyn Connector>);

#[async_trait]
impl Connector for Panicking {
    fn capabilities(&self, verb: Verb) -> Capabilities {
        self.0.capabilities(verb)
    }

    fn check(&self, draft: &Draft<'_>) -> Vec<Fault> {
        self.0.check(draft)
    }

    async fn prepare(&self, subject: &Subject) -> Result<Prepared, PrepareError> {
        self.0.prepare(subject).await
    }

    async fn execute(
        &self,
        subject: &Subject,
        payer: Option<&Payer>,
        gate: &dyn SendGate,
    ) -> Answer {
        let amount = subject.amount.minor();
        assert!(amount != PANICS, "cannot send {subject:?} for {payer:?}");
        if amount == PANICS_WITH_CARD
            && let Some(CardSource::Pan { number, .. }) = payer.map(|payer| &payer.card)
        {
            panic!("cannot parse {} of {payer:?}", number.expose());
        }
        self.0.execute(subject, payer, gate).await
    }

    async fn look_up(&self, subject: &Subject, control: Option<&Control>) -> LookUp {
        self.0.look_up(subject, control).await
    }

    async fn reverse(&self, subject: &Subject, form: &ReversalForm, gate: &dyn SendGate) -> Undo {
        self.0.reverse(subject, form, gate).await
    }

    fn refuses_now(&self, verb: Verb) -> Option<NotSent> {
        self.0.refuses_now(verb)
    }

    fn token_health(&self) -> Option<TokenHealth> {
        self.0.token_health()
    }
}

/// The pieces of the product, but for its connector, with the planted canary among its metrics.
async fn planted_pieces(config: &Config) -> Pieces {
    let seams = Seams {
        wrap_connector: Some(Arc::new(|inner| Arc::new(Panicking(inner)) as _)),
        ..Seams::default()
    };
    let mut pieces = pieces(config, seams).await.expect("pieces");
    let planted = Family::<Vec<(String, String)>, Counter>::default();
    for (what, text) in Canary::planted().spellings() {
        planted.get_or_create(&vec![(what, text)]).inc();
    }
    pieces
        .registry
        .register("planted", "Found by the search.", planted);
    pieces
}

async fn serve(config: Config) {
    let listener = server::bind(config.server.listen).expect("the port");
    let pieces = planted_pieces(&config).await;
    let gateway = Gateway::start(config, pieces).expect("a gateway");
    let serving = gateway.run(listener, std::future::pending());
    serving.await.expect("served until it is killed");
}

/// The body of the process that [`start_process`] starts; nothing otherwise.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs in a process of its own, which other tests start"]
async fn process() {
    let Some(path) = std::env::var_os(CONFIG) else {
        return;
    };
    let config = Config::load(Path::new(&path)).expect("a configuration");
    let _sinks = sinks::start(&config.telemetry).expect("the only one");
    for (what, text) in Canary::planted().spellings() {
        tracing::trace!(%what, %text, "planted");
        // As the gateway's own spans: no others leave the process.
        let span = tracing::info_span!(target: "gateway_planted", "planted", %what, %text);
        let _in_span = span.enter();
        tracing::info!(target: "gateway_planted", %what, %text, "planted");
    }
    serve(config).await;
}

/// A gateway in a process of its own that writes its log into `folder`, as `gateway serve` does.
pub(super) async fn start_process(folder: &Path, options: &GatewayOptions) -> Process {
    let config = folder.join("canary.toml");
    std::fs::write(&config, &options.config).expect("a file");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args([
            "canary::gateway::process",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env(CONFIG, &config);
    let mut process = Process::spawn("canary", folder, &mut command).expect("a process");
    let ready = eventually(PATIENCE, "the gateway to be ready", async || {
        let ended = process.ended().expect("its state");
        assert!(ended.is_none(), "{}", process.output().expect("its output"));
        is_ready(&options.base_url).await.then_some(())
    });
    ready.await.expect("ready");
    process
}

/// A gateway whose threads tell every span and event to the sink, and nobody else's do.
pub(super) async fn start_tapped(options: &GatewayOptions) -> (Runtime, Sink) {
    let spans = Sink::default();
    let subscriber = tracing_subscriber::registry().with(Tap(spans.clone()));
    let dispatch = tracing::Dispatch::new(subscriber);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(move || {
            // For the life of the thread.
            std::mem::forget(tracing::dispatcher::set_default(&dispatch));
        })
        .build()
        .expect("a runtime");
    let config = Config::parse(&options.config).expect("a configuration");
    runtime.spawn(async move {
        for (what, text) in Canary::planted().spellings() {
            let span = tracing::trace_span!("planted", %what, %text);
            let later = tracing::trace_span!("planted", later = tracing::field::Empty);
            later.record("later", tracing::field::debug(&text));
            drop((span, later));
        }
        serve(config).await;
    });
    let ready = eventually(PATIENCE, "the gateway to be ready", async || {
        is_ready(&options.base_url).await.then_some(())
    });
    ready.await.expect("ready");
    (runtime, spans)
}

async fn is_ready(base_url: &str) -> bool {
    let address = base_url.strip_prefix("http://").expect("plain HTTP");
    let address: SocketAddr = address.parse().expect("an address");
    if tokio::net::TcpStream::connect(address).await.is_err() {
        return false;
    }
    let answer = reqwest::get(format!("{base_url}/readyz")).await;
    answer.is_ok_and(|answer| answer.status().is_success())
}
