//! The rules of money: operations, payments, the ledger, and how every unknown outcome ends.
