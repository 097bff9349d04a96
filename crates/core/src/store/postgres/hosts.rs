//! A ledger on several servers, of which one takes writes: `postgres://user@one:5432,two:5432/ledger`.

/// The URL of each server that `url` lists, in its order; parsing none of them.
pub fn each_host(url: &str) -> Vec<String> {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url[begin..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| begin + at);
    let hosts = url[begin..end]
        .rfind('@')
        .map_or(begin, |at| begin + at + 1);
    url[hosts..end]
        .split(',')
        .map(|host| format!("{}{host}{}", &url[..hosts], &url[end..]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_the_same_user_database_and_options() {
        let urls = each_host("postgres://me@one:5432,two,[::1]:5433/ledger?sslmode=disable");
        let expected = [
            "postgres://me@one:5432/ledger?sslmode=disable",
            "postgres://me@two/ledger?sslmode=disable",
            "postgres://me@[::1]:5433/ledger?sslmode=disable",
        ];
        assert_eq!(urls, expected);
    }

    #[test]
    fn one_server_is_a_list_of_one() {
        for url in [
            "postgres://me@db.internal/ledger",
            "postgres:///a,b?c=d,e@f",
            "?",
        ] {
            assert_eq!(each_host(url), [url]);
        }
    }
}
