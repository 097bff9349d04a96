//! What every ledger promises, as tests that run against any of them.
//!
//! Each function is one promise and takes an empty ledger. `store_contract!` makes a test of each.

mod concurrency;
mod fixture;
mod reads;
mod record;
mod resolve;
mod settle;
mod undo;

pub use fixture::*;
pub use record::*;
pub use settle::*;

/// Makes one test of each promise. `$fresh` is an async function: an empty ledger, and whatever must live as long as it.
#[macro_export]
macro_rules! store_contract {
    ($fresh:path) => {
        $crate::store_contract!(@each $fresh,
            a_new_key_is_claimed_once_and_repeated_by_its_claim
            a_known_key_shows_its_holder
            the_recorded_row_is_what_was_intended
            a_key_that_sent_nothing_is_claimed_again_with_its_reference
            another_request_does_not_get_a_key_that_sent_nothing
            a_follow_up_takes_the_payment_and_reserves
            a_refused_follow_up_claims_no_key
            over_the_limit_is_said_only_of_settled_amounts
            a_follow_up_of_a_moved_payment_is_stale
            a_follow_up_waits_while_its_create_is_open
            a_baseline_wants_nothing_else_open
            an_order_has_one_live_create
            an_order_is_free_again_when_nothing_of_it_stands
            two_guarded_creates_in_one_batch_do_not_both_pass
            a_batch_of_every_kind_answers_in_its_order
            a_verification_has_no_payment
            a_taken_reference_is_refused
            an_approved_sale_is_captured_and_balanced
            a_repeated_settlement_is_applied_once
            an_authorization_is_captured_in_parts_and_voided
            refunds_add_up_and_end_as_refunded
            a_settlement_of_another_epoch_is_late
            a_late_answer_does_not_give_way_to_a_weaker_one
            a_final_state_stays
            unknown_keeps_the_amount_and_lets_others_go_on
            unknown_that_compares_totals_keeps_the_payment
            not_sent_gives_back_what_it_held
            totals_never_exceed_whatever_the_settlement_says
            a_refused_settlement_leaves_its_batch_unwritten
            a_declined_create_is_final_with_a_snapshot
        );
    };
    (@each $fresh:path, $($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                let ledger = $fresh().await;
                $crate::store::contract::$name(ledger.store()).await;
                ledger.end().await;
            }
        )*
    };
}
