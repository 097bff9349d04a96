//! The words that a member of our documents can hold, as OpenAPI lists them: taken from the types they are the names of.

use gateway_core::operation::{StateName, Verb};
use gateway_core::payment;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// What a payment's operations add up to.
#[derive(Debug)]
pub struct PaymentStatus;

/// How far an operation is.
#[derive(Debug)]
pub struct OperationState;

/// What an operation does.
#[derive(Debug)]
pub struct OperationVerb;

impl PartialSchema for PaymentStatus {
    fn schema() -> RefOr<Schema> {
        one_of(payment::PaymentStatus::ALL.map(payment::PaymentStatus::as_str))
    }
}

impl PartialSchema for OperationState {
    fn schema() -> RefOr<Schema> {
        one_of(StateName::ALL.map(StateName::as_str))
    }
}

impl PartialSchema for OperationVerb {
    fn schema() -> RefOr<Schema> {
        one_of(Verb::ALL.map(Verb::as_str))
    }
}

impl ToSchema for PaymentStatus {}
impl ToSchema for OperationState {}
impl ToSchema for OperationVerb {}

fn one_of<const N: usize>(words: [&'static str; N]) -> RefOr<Schema> {
    let object: Object = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words))
        .build();
    object.into()
}
