//! One simulated processor at work: journal, gates, faults and the processor's own rules, request by request.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use tokio::sync::{RwLock, oneshot, watch};

use super::door::{Answer, Cut};
use super::echo::Form;
use super::fault::{Fault, FaultSet, Kind, Strike, Subject};
use super::gate::{Gates, Moment};
use super::journal::{Journal, RequestRecord};
use super::wire::{Link, Shape};

/// A request as it was received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) number: u64,
    pub(crate) method: Method,
    /// Below the processor's own prefix, starting with a slash.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// An answer of the processor.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) location: Option<String>,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: "application/json; charset=utf-8",
            location: None,
            body: body.into(),
        }
    }

    pub(crate) fn html(status: StatusCode, body: &'static str) -> Self {
        Self {
            status,
            content_type: "text/html",
            location: None,
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    pub(crate) fn empty(status: StatusCode) -> Self {
        Self::json(status, Bytes::new())
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let empty = self.body.is_empty();
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        if !empty {
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static(self.content_type),
            );
        }
        if let Some(location) = self
            .location
            .and_then(|location| HeaderValue::try_from(location).ok())
        {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// A fault that bends the processor's decision rather than the delivery of its answer.
#[derive(Clone, Debug)]
pub(crate) enum Twist {
    HalfApproved,
    Decline {
        code: Option<String>,
        unprocessable: bool,
    },
    Status(String),
}

/// An answer that leaves the books as they are, in the processor's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    TokenExpired,
    TooManyRequests,
    ServerError,
    NoRoute,
    /// Begins with this text, or with one of its own.
    EchoCard(Option<String>, Form),
    EchoDecline(Form),
    /// A code of its decline table.
    Code(String),
}

/// What a processor brings: its rules. Connections, faults, gates and journal are the same for all.
pub(crate) trait Processor: Send + Sync + 'static {
    /// Every verb that `subject` can name.
    fn verbs(&self) -> &'static [&'static str];
    fn subject(&self, request: &Received) -> Subject;
    /// Decides, writes the books, and only then answers.
    fn answer(&self, request: &Received, twist: Option<&Twist>) -> Reply;
    fn refuse(&self, request: &Received, refusal: Refusal) -> Reply;
    /// The answer with what is secret in the request repeated in each of its texts.
    fn repeat_in(&self, request: &Received, reply: Reply, form: Form) -> Reply;
    /// The omniscient truth, as JSON.
    fn books(&self) -> String;
    fn close_batch(&self) -> io::Result<()>;
    /// The switches of its rules, as JSON.
    fn rules(&self) -> String;
    fn set_rules(&self, json: &[u8]) -> Result<(), String>;
    fn reset(&self) -> io::Result<()>;
}

/// A processor with everything around it.
pub(crate) struct Site {
    pub(crate) processor: Arc<dyn Processor>,
    pub(crate) faults: FaultSet,
    pub(crate) gates: Arc<Gates>,
    pub(crate) journal: Journal,
    /// Raised to let every pending late commit happen now.
    late: watch::Sender<u64>,
    /// Raised by a reset or the shutdown: work begun before it must not reach the books after it.
    era: RwLock<u64>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site")
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

/// How the connection is to deliver what was decided.
enum Delivery {
    Whole(Reply),
    Halved(Reply),
    Dripped(Reply, Duration),
    Reset,
    /// Nothing, until the orders of that generation are lifted.
    Silence(u64),
}

const BODY_BYTES_MAX: usize = 1 << 20;
const DRIP: Duration = Duration::from_secs(1);
/// Of the head and its framing, for the pace of a drip.
const HEAD_BYTES_ABOUT: usize = 160;

impl Site {
    pub(crate) fn new(
        processor: Arc<dyn Processor>,
        standing: Vec<Fault>,
        journal_count_max: usize,
    ) -> Self {
        Self {
            processor,
            faults: FaultSet::new(standing),
            gates: Arc::default(),
            journal: Journal::new(journal_count_max),
            late: watch::Sender::new(0),
            era: RwLock::new(0),
        }
    }

    pub(crate) async fn serve(
        self: &Arc<Self>,
        link: &Link,
        on_connection: u64,
        path: String,
        request: Request<Incoming>,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let number = self.journal.receive(RequestRecord {
            connection: link.id,
            on_connection,
            connection_age_ms: u64::try_from(link.opened.elapsed().as_millis()).unwrap_or(u64::MAX),
            method: head.method.to_string(),
            path: path.clone(),
            headers: shown(&head.headers),
            ..RequestRecord::default()
        });
        let body = Limited::new(body, BODY_BYTES_MAX)
            .collect()
            .await
            .map_err(|_| Cut)?
            .to_bytes();
        let received = Received {
            number,
            method: head.method,
            path,
            headers: head.headers,
            body,
        };
        // A processor finishes what it began, also when the caller hangs up: so the work has a task of its own.
        let (decided, decision) = oneshot::channel();
        let site = Arc::clone(self);
        tokio::spawn(async move {
            if let Some(delivery) = site.decide(Arc::new(received)).await {
                let _ = decided.send(delivery); // The caller may have left.
            }
        });
        let delivery = decision.await.map_err(|_| Cut)?;
        self.deliver(link, number, delivery).await
    }

    /// Lets every pending late commit happen now.
    pub(crate) fn release_late(&self) {
        self.late.send_modify(|generation| *generation += 1);
    }

    pub(crate) async fn reset(&self) -> io::Result<()> {
        let mut era = self.era.write().await;
        *era += 1;
        self.journal.clear();
        self.processor.reset()
    }

    /// From now on nothing reaches the books.
    pub(crate) async fn close(&self) {
        *self.era.write().await += 1;
    }

    async fn decide(self: &Arc<Self>, request: Arc<Received>) -> Option<Delivery> {
        let era = *self.era.read().await;
        let subject = self.processor.subject(&request);
        self.journal.describe(request.number, &subject);
        self.gates.pass(Moment::Received, &subject).await;
        let strike = self.faults.strike(&subject);
        if let Some(Strike { fault, .. }) = &strike {
            self.journal.update(request.number, |record| {
                record.fault = Some(fault.fault.name());
            });
        }
        let Some(Strike { fault, generation }) = strike else {
            return self
                .commit(era, &request, &subject, None)
                .await
                .map(Delivery::Whole);
        };
        let refuse = |refusal| Some(Delivery::Whole(self.processor.refuse(&request, refusal)));
        match fault.fault {
            Kind::ResetBeforeRead => Some(Delivery::Reset),
            Kind::HangBeforeCommit => Some(Delivery::Silence(generation)),
            Kind::Http500 => refuse(Refusal::ServerError),
            Kind::Http429 => refuse(Refusal::TooManyRequests),
            Kind::TokenExpired => refuse(Refusal::TokenExpired),
            Kind::Route404 => refuse(Refusal::NoRoute),
            Kind::EchoCard => refuse(Refusal::EchoCard(fault.status, fault.form)),
            Kind::EchoCard2xx => refuse(Refusal::EchoDecline(fault.form)),
            Kind::CommitThenEcho => {
                let reply = self.commit(era, &request, &subject, None).await?;
                let reply = self.processor.repeat_in(&request, reply, fault.form);
                Some(Delivery::Whole(reply))
            }
            Kind::Redirect308 => {
                let mut reply = Reply::empty(StatusCode::PERMANENT_REDIRECT);
                reply.location = Some(
                    fault
                        .location
                        .unwrap_or_else(|| "https://elsewhere.invalid/".to_owned()),
                );
                Some(Delivery::Whole(reply))
            }
            Kind::CommitLate => {
                let (site, released) = (Arc::clone(self), self.late.subscribe());
                tokio::spawn(site.commit_late(era, request, subject, fault, released));
                Some(Delivery::Silence(generation))
            }
            Kind::CommitThenHang => self
                .commit(era, &request, &subject, None)
                .await
                .map(|_| Delivery::Silence(generation)),
            Kind::CommitThenReset => self
                .commit(era, &request, &subject, None)
                .await
                .map(|_| Delivery::Reset),
            Kind::CommitThenTruncate => self
                .commit(era, &request, &subject, None)
                .await
                .map(Delivery::Halved),
            Kind::CommitThen500 => {
                self.commit(era, &request, &subject, None).await?;
                refuse(Refusal::ServerError)
            }
            Kind::CommitThenCode => {
                self.commit(era, &request, &subject, None).await?;
                refuse(Refusal::Code(
                    fault.code.unwrap_or_else(|| "E0910".to_owned()),
                ))
            }
            Kind::CommitThenGarbage => {
                self.commit(era, &request, &subject, None).await?;
                let page = "<html><head><title>Working on it</title></head><body>Please wait</body></html>";
                Some(Delivery::Whole(Reply::html(StatusCode::OK, page)))
            }
            Kind::SlowDrip => {
                let over = fault.duration(DRIP);
                self.commit(era, &request, &subject, None)
                    .await
                    .map(|reply| Delivery::Dripped(reply, over))
            }
            Kind::CommitThenStatus => {
                let status = fault
                    .status
                    .unwrap_or_else(|| "Transaction - Processor Error".to_owned());
                self.commit(era, &request, &subject, Some(&Twist::Status(status)))
                    .await
                    .map(Delivery::Whole)
            }
            Kind::PartialApproval => self
                .commit(era, &request, &subject, Some(&Twist::HalfApproved))
                .await
                .map(Delivery::Whole),
            Kind::Decline422 | Kind::Decline2xx => {
                let unprocessable = fault.fault == Kind::Decline422;
                let twist = Twist::Decline {
                    code: fault.code,
                    unprocessable,
                };
                self.commit(era, &request, &subject, Some(&twist))
                    .await
                    .map(Delivery::Whole)
            }
            // Faults of the connection strike no request; `strike` passes over them.
            Kind::RefuseConnection | Kind::ResetOnAccept | Kind::Outage | Kind::CloseIdle => None,
        }
    }

    /// `None`: the simulator was reset or shut down meanwhile, and the connection ends without an answer.
    async fn commit(
        &self,
        era: u64,
        request: &Received,
        subject: &Subject,
        twist: Option<&Twist>,
    ) -> Option<Reply> {
        self.gates.pass(Moment::BeforeCommit, subject).await;
        let reply = {
            let now = self.era.read().await;
            if *now != era {
                return None;
            }
            self.processor.answer(request, twist)
        };
        self.journal.update(request.number, |record| {
            record.status = Some(reply.status.as_u16());
        });
        self.gates.pass(Moment::AfterCommit, subject).await;
        Some(reply)
    }

    async fn commit_late(
        self: Arc<Self>,
        era: u64,
        request: Arc<Received>,
        subject: Subject,
        fault: Fault,
        mut released: watch::Receiver<u64>,
    ) {
        let due = async {
            match fault.delay_ms {
                Some(delay) => tokio::time::sleep(Duration::from_millis(delay)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            _ = released.changed() => {} // The sender lives in `self`.
        }
        // Nobody is left to answer; the books are what counts.
        drop(self.commit(era, &request, &subject, None).await);
    }

    async fn deliver(&self, link: &Link, number: u64, delivery: Delivery) -> Answer {
        let answered = |reply: Reply| {
            self.journal.update(number, |record| {
                record.status = Some(reply.status.as_u16());
                record.answered = true;
            });
            Ok(reply.into_response())
        };
        match delivery {
            Delivery::Whole(reply) => answered(reply),
            Delivery::Dripped(reply, over) => {
                link.shape(Shape::Drip {
                    over,
                    bytes: reply.body.len() + HEAD_BYTES_ABOUT,
                });
                answered(reply)
            }
            Delivery::Halved(reply) => {
                link.shape(Shape::CutBodyAfter(reply.body.len() / 2));
                Ok(reply.into_response())
            }
            Delivery::Reset => {
                link.reset_on_close();
                Err(Cut)
            }
            Delivery::Silence(generation) => {
                self.faults.lifted(generation).await;
                Err(Cut)
            }
        }
    }
}

/// Headers for the journal. The token is shown as a digest, so that a test can tell one from another.
fn shown(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |name: &header::HeaderName, value: &HeaderValue| {
        if *name == header::AUTHORIZATION {
            format!("sha256:{}", super::digest(value.as_bytes()))
        } else {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        }
    };
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), text(name, value)))
        .collect()
}
