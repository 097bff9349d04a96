//! The rules of `ConnexPay` as its documents state them, checked through the API.

mod books;
mod rules;
