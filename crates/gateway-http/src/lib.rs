//! The edge: HTTP, authentication, configuration.

pub mod app;
pub mod assemble;
pub mod auth;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod explain;
pub mod extract;
pub mod fields;
pub mod gateway;
pub mod json;
pub mod ledger;
pub mod openapi;
pub mod patience;
pub mod problem;
pub mod process;
pub mod rate;
pub mod requests;
pub mod routes;
pub mod schema;
pub mod server;
pub mod telemetry;
pub mod tls;
pub mod token_metrics;
pub mod upstreams;
