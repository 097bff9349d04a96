//! What the processor may do to a payment, and what must come of it.

mod act;
mod cells;
mod compare;
mod matrix;
mod outage;
mod redirect;
mod resend;
mod stage;
mod storm;
mod undoing;
