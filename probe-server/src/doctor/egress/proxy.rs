//! Proxies that the environment names: the product connects directly, so one that is needed will be missed.

/// The proxies of `variables`, as `NAME=VALUE` without what is secret in them.
pub(super) fn from_environment(variables: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut found: Vec<String> = variables
        .filter(|(name, value)| {
            let name = name.to_ascii_lowercase();
            matches!(name.as_str(), "http_proxy" | "https_proxy" | "all_proxy") && !value.is_empty()
        })
        .map(|(name, value)| format!("{name}={}", without_password(&value)))
        .collect();
    found.sort();
    found
}

fn without_password(value: &str) -> String {
    let (scheme, rest) = value.split_once("://").map_or(("", value), |(scheme, rest)| (scheme, rest));
    let shown = match rest.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => rest.to_owned(),
    };
    if scheme.is_empty() { shown } else { format!("{scheme}://{shown}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_named_without_their_passwords() {
        let variables = [
            ("HTTPS_PROXY", "http://me:secret@proxy.example:3128"),
            ("http_proxy", "proxy.example:8080"),
            ("ALL_PROXY", ""),
            ("PATH", "/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(
            from_environment(variables.into_iter()),
            ["HTTPS_PROXY=http://…@proxy.example:3128", "http_proxy=proxy.example:8080"]
        );
    }
}
