//! ConnexPay's paths, read without regard to case, and the verb that each of them is.

use http::Method;

use super::books::EntryKind;

/// The names that faults and the journal use.
pub mod verb {
    pub const TOKEN: &str = "token";
    pub const SALE: &str = "sale";
    pub const TIMEOUT_REVERSAL: &str = "timeout_reversal";
    pub const AUTH_ONLY: &str = "auth_only";
    pub const CAPTURE: &str = "capture";
    pub const VOID: &str = "void";
    pub const RETURN: &str = "return";
    pub const VERIFY: &str = "verify";
    /// One transaction by its id, or all of a kind.
    pub const READ: &str = "read";
    pub const SEARCH: &str = "search";
    pub const BATCH_CLOSE: &str = "batch_close";
    pub const BATCH_READ: &str = "batch_read";
    pub const DEVICES: &str = "devices";
    pub const USERS: &str = "users";
    /// A path that this API does not have.
    pub const OTHER: &str = "other";

    pub const ALL: &[&str] = &[
        TOKEN,
        SALE,
        TIMEOUT_REVERSAL,
        AUTH_ONLY,
        CAPTURE,
        VOID,
        RETURN,
        VERIFY,
        READ,
        SEARCH,
        BATCH_CLOSE,
        BATCH_READ,
        DEVICES,
        USERS,
        OTHER,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Token,
    Create(EntryKind),
    TimeoutReversal,
    Read(EntryKind, String),
    List(EntryKind),
    SalesOfBatch(String),
    Search {
        kind: EntryKind,
        export: bool,
        page: usize,
        size: usize,
    },
    SearchNothing,
    BatchClose,
    BatchSearch,
    BatchTransactions(String),
    Devices,
    User(String),
    SearchUsers,
    Unknown,
}

const PAGE_SIZE: usize = 500;

impl Route {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let path = path.to_ascii_lowercase();
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let ["api", "v1", parts @ ..] = parts.as_slice() else {
            return Self::Unknown;
        };
        let get = method == Method::GET;
        if !get && method != Method::POST {
            return Self::Unknown;
        }
        match parts {
            ["token"] if !get => Self::Token,
            ["timeoutreversal"] if !get => Self::TimeoutReversal,
            ["devices"] if get => Self::Devices,
            ["userroles", "users", id] if get => Self::User((*id).to_owned()),
            ["search", "users"] if !get => Self::SearchUsers,
            ["search", "recurringbillings", ..] if !get => Self::SearchNothing,
            ["search", name, export, rest @ ..] if !get => Self::search(name, export, rest),
            ["batches", "close"] if !get => Self::BatchClose,
            ["batches", "search"] if !get => Self::BatchSearch,
            ["batches", guid, "transactions"] if get => Self::BatchTransactions((*guid).to_owned()),
            ["sales", "batch", guid] if get => Self::SalesOfBatch((*guid).to_owned()),
            [name] => match kind(name) {
                Some(kind) if get => Self::List(kind),
                Some(kind) => Self::Create(kind),
                None => Self::Unknown,
            },
            [name, guid] if get => {
                kind(name).map_or(Self::Unknown, |kind| Self::Read(kind, (*guid).to_owned()))
            }
            _ => Self::Unknown,
        }
    }

    pub(super) const fn verb(&self) -> &'static str {
        match self {
            Self::Token => verb::TOKEN,
            Self::Create(EntryKind::Sale) => verb::SALE,
            Self::Create(EntryKind::AuthOnly) => verb::AUTH_ONLY,
            Self::Create(EntryKind::Capture) => verb::CAPTURE,
            Self::Create(EntryKind::Void) => verb::VOID,
            Self::Create(EntryKind::Return) => verb::RETURN,
            Self::Create(EntryKind::Verify) => verb::VERIFY,
            Self::TimeoutReversal => verb::TIMEOUT_REVERSAL,
            Self::Read(..) | Self::List(_) | Self::SalesOfBatch(_) => verb::READ,
            Self::Search { .. } | Self::SearchNothing => verb::SEARCH,
            Self::BatchClose => verb::BATCH_CLOSE,
            Self::BatchSearch | Self::BatchTransactions(_) => verb::BATCH_READ,
            Self::Devices => verb::DEVICES,
            Self::User(_) | Self::SearchUsers => verb::USERS,
            Self::Unknown => verb::OTHER,
        }
    }

    fn search(name: &str, export: &str, rest: &[&str]) -> Self {
        let kind = match name {
            "sales" => EntryKind::Sale,
            "voids" => EntryKind::Void,
            "returns" => EntryKind::Return,
            "authonlys" => EntryKind::AuthOnly,
            "captures" => EntryKind::Capture,
            "verify" => EntryKind::Verify,
            _ => return Self::Unknown,
        };
        let numbers: Result<Vec<usize>, _> =
            rest.iter().map(|part| part.parse::<usize>()).collect();
        let (export, Ok(numbers)) = (export == "true", numbers) else {
            return Self::Unknown;
        };
        match numbers.as_slice() {
            [] => Self::Search {
                kind,
                export,
                page: 1,
                size: PAGE_SIZE,
            },
            [page] => Self::Search {
                kind,
                export,
                page: (*page).max(1),
                size: PAGE_SIZE,
            },
            [page, size] => Self::Search {
                kind,
                export,
                page: (*page).max(1),
                size: (*size).max(1),
            },
            _ => Self::Unknown,
        }
    }
}

fn kind(name: &str) -> Option<EntryKind> {
    Some(match name {
        "sales" => EntryKind::Sale,
        "authonlys" => EntryKind::AuthOnly,
        "captures" => EntryKind::Capture,
        "void" => EntryKind::Void,
        "returns" => EntryKind::Return,
        "verify" => EntryKind::Verify,
        _ => return None,
    })
}
