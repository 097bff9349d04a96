//! The simulator's books are the truth of every crash test, so they must survive a kill themselves.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sandbox::simulators::connexpay::{Books, DEVICE_USD, PASSWORD, SANDBOX_CARDS, USERNAME};
use sandbox::stack::{Process, StackError, TempDir, eventually, reserve_port};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const ENOUGH: usize = 40;

struct Simulator {
    process: Process,
    api: String,
    control: String,
}

impl Simulator {
    async fn start(folder: &TempDir, ports: (u16, u16)) -> Result<Self, StackError> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
        command.args(["simulate", "--port", &ports.0.to_string()]);
        command.args(["--control-port", &ports.1.to_string()]);
        command.arg("--dir").arg(folder.path().join("books"));
        let process = Process::spawn("simulator", folder.path(), &mut command)?;
        let simulator = Self {
            process,
            api: format!("http://127.0.0.1:{}/connexpay/api/v1", ports.0),
            control: format!("http://127.0.0.1:{}/_sandbox/connexpay", ports.1),
        };
        eventually(PATIENCE, "the simulator to listen", async || {
            simulator.books().await.ok()
        })
        .await?;
        Ok(simulator)
    }

    async fn books(&self) -> reqwest::Result<Books> {
        let url = format!("{}/books", self.control);
        reqwest::get(url).await?.error_for_status()?.json().await
    }

    async fn token(&self) -> reqwest::Result<String> {
        let form = format!("grant_type=password&username={USERNAME}&password={PASSWORD}");
        let sent = reqwest::Client::new()
            .post(format!("{}/token", self.api))
            .body(form)
            .send();
        let answer: Value = sent.await?.error_for_status()?.json().await?;
        Ok(answer["access_token"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }
}

/// Charges under numbers of its own until nobody answers any more; returns those that were answered.
async fn charge_until_the_end(
    api: String,
    token: String,
    lane: usize,
    answered: Arc<AtomicUsize>,
) -> Vec<String> {
    let (number, code) = SANDBOX_CARDS[lane];
    let client = reqwest::Client::new();
    let mut approved = Vec::new();
    loop {
        let sequence = format!("L{lane}N{}", approved.len());
        let sale = json!({
            "DeviceGuid": DEVICE_USD, "Amount": 1.25, "SequenceNumber": sequence,
            "ConnexPayTransaction": {"ExpectedPayments": 0},
            "RiskData": {"Gender": "F", "ProductType": "Flight", "ProductItem": "1"},
            "Card": {"CardNumber": number, "Cvv2": code, "ExpirationDate": "3912"},
        });
        let sent = client
            .post(format!("{api}/sales"))
            .bearer_auth(&token)
            .json(&sale)
            .send();
        let answer = match sent.await {
            Ok(answer) => answer.json::<Value>().await,
            Err(error) => Err(error),
        };
        let Ok(answer) = answer else { return approved };
        assert_eq!(answer["status"], "Transaction - Approved", "{answer}");
        approved.push(sequence);
        answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn what_was_answered_before_a_kill_is_in_the_books_after_it() -> Result<(), StackError> {
    let folder = TempDir::new("simulator-kill")?;
    let ports = (reserve_port()?, reserve_port()?);
    let mut simulator = Simulator::start(&folder, ports).await?;
    let token = simulator.token().await.expect("a token");
    let answered = Arc::new(AtomicUsize::new(0));
    let lanes: Vec<_> = (0..4)
        .map(|lane| {
            let lane = charge_until_the_end(
                simulator.api.clone(),
                token.clone(),
                lane,
                Arc::clone(&answered),
            );
            tokio::spawn(lane)
        })
        .collect();
    eventually(PATIENCE, "enough answers", async || {
        (answered.load(Ordering::Relaxed) >= ENOUGH).then_some(())
    })
    .await?;
    simulator.process.kill()?;
    let mut approved = Vec::new();
    for lane in lanes {
        approved.extend(lane.await.expect("a lane"));
    }

    let simulator = Simulator::start(&folder, ports).await?;
    let books = simulator.books().await.expect("the books");
    for sequence in &approved {
        let position = books.position(sequence);
        assert_eq!((position.sales, position.net), (1, 125), "{sequence}");
    }
    // One sale of each lane at most was in the books and not answered.
    assert!(books.positions.len() <= approved.len() + 4);
    assert_eq!(
        simulator.token().await.map(|token| token.is_empty()).ok(),
        Some(false)
    );
    Ok(())
}
