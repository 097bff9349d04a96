//! What is measured: each scene with both sides in turn.

mod alone;
mod growth;
mod memory;
mod recycling;
mod sales;
mod tail;
mod telemetry;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::ValueEnum;

use super::WARM_UP;
use super::gateway::Gateway;
use super::load::Tally;
use super::pgbench::{self, Twin};
use super::report::{Section, median};
use super::rig::Rig;
use crate::stack::StackError;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Scene {
    /// Payments a second, over what the ledger can do by itself.
    Sales,
    /// One payment at a time: what the gateway adds.
    Alone,
    /// Half of what it can do, of an upstream that takes its time: what the slowest see.
    Tail,
    /// What the recycling of connections costs.
    Recycling,
    /// What tracing costs.
    Telemetry,
    /// Ten thousand payments admitted, and none answered.
    Memory,
    /// More rows, more replicas, more callers.
    Growth,
}

impl Scene {
    /// In the order in which they are played: those that fill the ledger come last.
    pub(super) const ALL: &'static [Self] = &[
        Self::Alone,
        Self::Sales,
        Self::Tail,
        Self::Recycling,
        Self::Telemetry,
        Self::Memory,
        Self::Growth,
    ];
}

/// What every scene is given.
pub(super) struct Stage<'a> {
    pub(super) turns: u16,
    pub(super) span: Duration,
    pub(super) connections: usize,
    pub(super) clients: &'a [usize],
    pub(super) rig: &'a Rig,
    pub(super) twin: &'a Twin,
    /// Of pgbench so far: each has ids of its own.
    pub(super) runs: AtomicUsize,
}

impl Stage<'_> {
    pub(super) async fn play(&self, scene: Scene) -> Result<Section, StackError> {
        match scene {
            Scene::Sales => sales::play(self).await,
            Scene::Alone => alone::play(self).await,
            Scene::Tail => tail::play(self).await,
            Scene::Recycling => recycling::play(self).await,
            Scene::Telemetry => telemetry::play(self).await,
            Scene::Memory => memory::play(self).await,
            Scene::Growth => growth::play(self).await,
        }
    }

    async fn pgbench(&self, clients: usize) -> Result<pgbench::Run, StackError> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        self.rig
            .pgbench(self.twin, number, clients, self.span)
            .await
    }

    /// Of as many callers as there are everywhere, each with the next request when the last is answered.
    async fn pay(&self, gateway: &Gateway) -> Result<Tally, StackError> {
        self.rig.pay(&[gateway], self.connections, self.span).await
    }

    async fn warm_up(&self, gateway: &Gateway) -> Result<(), StackError> {
        self.rig.pay(&[gateway], self.connections, WARM_UP).await?;
        Ok(())
    }

    /// Half of what this gateway can do, a second.
    async fn half_of_peak(&self, gateway: &Gateway) -> Result<f64, StackError> {
        self.warm_up(gateway).await?;
        let mut peaks = Vec::new();
        for _ in 0..3 {
            peaks.push(self.pay(gateway).await?.per_second());
        }
        Ok(median(&mut peaks).unwrap_or_default() / 2.0)
    }
}

/// A figure as a cell of a table.
fn cell(value: f64, decimals: usize) -> String {
    format!("{value:.decimals$}")
}

/// Cells of a row, or names of columns.
fn cells(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a run are far below 2^52"
)]
fn count(of: u64) -> f64 {
    of as f64
}
