//! The rules of ConnexPay as its documents state them, checked through the API.

mod arithmetic;
mod books;
mod rules;
