//! What every ledger promises, as tests that run against any of them.
//!
//! Each function is one promise and takes an empty ledger. `store_contract!` makes a test of each.

mod concurrency;
mod fixture;
mod history;
mod reads;
mod record;
mod resolve;
mod settle;
mod undo;

pub use concurrency::*;
pub use fixture::*;
pub use history::*;
pub use reads::*;
pub use record::*;
pub use resolve::*;
pub use settle::*;
pub use undo::*;

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
            a_late_answer_of_an_earlier_attempt_is_only_told
            a_final_state_stays
            unknown_keeps_the_amount_and_lets_others_go_on
            unknown_that_compares_totals_keeps_the_payment
            not_sent_gives_back_what_it_held
            totals_never_exceed_whatever_the_settlement_says
            a_refused_settlement_leaves_its_batch_unwritten
            a_declined_create_is_final_with_a_snapshot

            a_cancelled_key_that_was_never_seen_is_a_tombstone
            cancelling_what_runs_takes_it_from_its_owner
            cancelling_is_idempotent
            cancelling_what_sent_nothing_ends_it
            cancelling_an_approved_create_makes_it_due_until_nothing_stands
            what_is_cancelled_is_undone_by_whoever_was_asked
            cancelling_a_declined_create_only_marks_it
            a_follow_up_cannot_be_cancelled
            no_follow_up_is_begun_on_what_is_being_undone
            a_reversal_is_recorded_before_it_is_sent
            a_reversal_of_an_approved_sale_takes_what_remains
            a_refund_form_is_never_sent_twice
            a_refund_form_that_never_left_may_be_sent_later
            a_reversal_that_sent_nothing_begins_anew
            a_reversal_with_an_old_epoch_is_stale
            what_became_approved_meanwhile_is_not_reversed
            a_reversal_that_ended_is_not_sent_again
            a_reversal_waits_for_a_follow_up

            heartbeats_count_up_and_show_the_others
            a_replica_with_open_operations_does_not_leave
            adoption_raises_the_epoch_and_makes_recorded_unknown
            who_has_beaten_since_is_not_silent
            adoption_of_a_follow_up_releases_its_payment
            what_is_handed_over_is_adopted_by_anybody
            overdue_operations_are_adopted_whoever_owns_them
            what_fell_due_just_now_is_left_to_its_owner
            due_operations_come_soonest_first
            a_check_moves_the_due_time_and_is_counted
            a_send_is_counted_and_moves_the_horizon
            the_horizon_counts_from_when_nothing_leaves_any_more
            a_token_is_replaced_only_by_who_knows_it
            at_risk_adds_up_what_is_open
            at_risk_counts_what_is_to_be_undone_once

            operations_and_payments_are_read_back
            ended_names_only_what_ended
            payments_are_listed_newest_first_by_keyset
            the_feed_shows_each_transition_once_in_order
            the_timeline_tells_everything
            metadata_is_kept_until_it_is_erased
            a_control_is_another_approved_operation
            a_control_recorded_afterwards_is_preferred
            a_control_is_one_that_this_endpoint_can_find
            a_control_is_looked_for_among_the_newest_payments
            a_sound_ledger_has_no_faults

            one_of_many_racing_claims_wins
            batches_in_opposite_order_do_not_deadlock
            parallel_refunds_never_exceed_the_capture
            parallel_captures_have_one_winner
            racing_guarded_creates_have_one_winner
            a_cancellation_that_races_a_create_leaves_one_answer
            racing_adopters_share_the_work

            any_history_leaves_totals_that_operations_add_up_to
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
