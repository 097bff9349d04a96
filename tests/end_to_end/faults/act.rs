//! What a cell of the matrix does to its payment, and with which amounts.

use sandbox::simulators::connexpay::verb;

/// What a cell does to its payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Sale,
    Authorize,
    /// Part of an authorization.
    Capture,
    /// A sale that is not settled.
    VoidSale,
    VoidHold,
    /// An authorization of which part is captured.
    VoidCaptured,
    /// Part of a settled sale.
    Refund,
    /// Part of what was captured, and settled.
    RefundCaptured,
    /// A whole sale that is not settled: it is sent as a void.
    RefundUnsettled,
}

impl Act {
    pub(super) const ALL: [Self; 9] = [
        Self::Sale,
        Self::Authorize,
        Self::Capture,
        Self::VoidSale,
        Self::VoidHold,
        Self::VoidCaptured,
        Self::Refund,
        Self::RefundCaptured,
        Self::RefundUnsettled,
    ];

    /// The processor's verb.
    pub(super) const fn verb(self) -> &'static str {
        match self {
            Self::Sale => verb::SALE,
            Self::Authorize => verb::AUTH_ONLY,
            Self::Capture => verb::CAPTURE,
            Self::VoidSale | Self::VoidHold | Self::VoidCaptured | Self::RefundUnsettled => {
                verb::VOID
            }
            Self::Refund | Self::RefundCaptured => verb::RETURN,
        }
    }

    /// What the processor executes at most once for its parent, so that it may be sent again.
    pub(super) const fn is_repeatable(self) -> bool {
        matches!(
            self,
            Self::Capture | Self::VoidSale | Self::VoidHold | Self::VoidCaptured
        )
    }

    /// Follows what is settled.
    pub(super) const fn is_after_settlement(self) -> bool {
        matches!(self, Self::Refund | Self::RefundCaptured)
    }

    /// Follows an authorization of which part was captured.
    pub(super) const fn is_after_capture(self) -> bool {
        matches!(self, Self::VoidCaptured | Self::RefundCaptured)
    }

    pub(super) const fn is_create(self) -> bool {
        matches!(self, Self::Sale | Self::Authorize)
    }

    /// Of the payment, minor units.
    pub(super) const fn whole(self) -> i64 {
        match self {
            Self::Sale => 101_00,
            Self::Authorize => 102_00,
            Self::Capture => 103_00,
            Self::VoidSale => 104_00,
            Self::VoidHold => 105_00,
            Self::VoidCaptured => 106_00,
            Self::Refund => 107_00,
            Self::RefundCaptured => 108_00,
            Self::RefundUnsettled => 109_00,
        }
    }

    /// Of what is captured or refunded.
    pub(super) const fn part(self) -> i64 {
        match self {
            Self::Capture | Self::VoidCaptured => CAPTURED,
            Self::Refund | Self::RefundCaptured => 40_00,
            _ => self.whole(),
        }
    }
}

/// What is captured of an authorization, minor units.
pub(super) const CAPTURED: i64 = 60_00;
