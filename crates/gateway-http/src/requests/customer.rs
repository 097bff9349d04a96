//! The `customer` object: who pays, passed through to the processor and kept nowhere.

use gateway_core::card::Sensitive;
use gateway_core::connector::Customer;
use gateway_core::idempotency::CanonicalForm;

use crate::fields::{Field, Fields};

pub(super) fn read(field: &Field<'_, '_, '_>) -> Option<Customer> {
    let mut fields = field.object()?;
    let mut customer = Customer {
        first_name: text(&mut fields, "first_name", 64),
        last_name: text(&mut fields, "last_name", 64),
        email: email(&fields.optional("email")),
        phone: text(&mut fields, "phone", 32),
        ..Customer::default()
    };
    if let Some(mut address) = fields.optional("address").object() {
        customer.line1 = text(&mut address, "line1", 100);
        customer.line2 = text(&mut address, "line2", 100);
        customer.city = text(&mut address, "city", 64);
        customer.state = text(&mut address, "state", 64);
        customer.postal_code = text(&mut address, "postal_code", 16);
        customer.country = country(&address.optional("country"));
        address.finish();
    }
    fields.finish();
    Some(customer)
}

fn text(
    fields: &mut Fields<'_, '_, '_>,
    name: &'static str,
    length_max: usize,
) -> Option<Sensitive> {
    fields
        .optional(name)
        .text(1..=length_max)
        .map(Sensitive::new)
}

/// RFC 5321, 4.5.3.1: 254 characters. Whether it exists is not ours to judge; that it is an address at all is.
fn email(field: &Field<'_, '_, '_>) -> Option<Sensitive> {
    let text = field.text(3..=254)?;
    match text.split_once('@') {
        Some((local, domain)) if !local.is_empty() && !domain.is_empty() && !text.contains(' ') => {
            Some(Sensitive::new(text))
        }
        _ => {
            field.refuse("form", "must be an e-mail address");
            None
        }
    }
}

/// ISO 3166-1 alpha-2.
fn country(field: &Field<'_, '_, '_>) -> Option<Sensitive> {
    let text = field.any_text()?;
    if text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Some(Sensitive::new(text));
    }
    field.refuse("form", "must be a country code of two capital letters");
    None
}

pub(super) fn put(form: &mut CanonicalForm, customer: &Customer) {
    let Customer {
        first_name,
        last_name,
        email,
        phone,
        line1,
        line2,
        city,
        state,
        postal_code,
        country,
    } = customer;
    let parts = [
        ("/customer/first_name", first_name),
        ("/customer/last_name", last_name),
        ("/customer/email", email),
        ("/customer/phone", phone),
        ("/customer/address/line1", line1),
        ("/customer/address/line2", line2),
        ("/customer/address/city", city),
        ("/customer/address/state", state),
        ("/customer/address/postal_code", postal_code),
        ("/customer/address/country", country),
    ];
    for (path, part) in parts {
        if let Some(text) = part {
            form.sensitive(path, text);
        }
    }
}
