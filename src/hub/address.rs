//! Addresses: where they lead, and what of them may be shown.

use ureq::http;

/// Scheme, host and port.
pub(super) type Origin = (String, String, u16);

/// Scheme, host and port of an address.
pub(super) fn origin(url: &str) -> Option<Origin> {
    let uri: http::Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some((scheme, uri.host()?.to_ascii_lowercase(), uri.port_u16().unwrap_or(default)))
}

/// An address without what may carry a permission: the query, and whatever stands before the host.
pub(super) fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or_default();
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) =
                rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, format!("/{path}")));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => plain.to_string(),
    }
}

/// A `Location` as an address, relative to the one that was asked.
pub(super) fn join(base: &str, location: &str) -> Option<String> {
    let location = location.trim();
    if origin(location).is_some() {
        return Some(location.to_string());
    }
    let (scheme, rest) = base.split_once("://")?;
    if let Some(other) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{other}"));
    }
    if location.split('/').next()?.contains(':') {
        return None;
    }
    let rest = rest.split(['?', '#']).next()?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if location.starts_with('/') {
        return Some(format!("{scheme}://{host}{location}"));
    }
    if location.starts_with('?') {
        return Some(format!("{scheme}://{host}/{path}{location}"));
    }
    // RFC 3986, section 5.2.4: dots are taken out before the address is asked.
    let (relative, query) = location.find('?').map_or((location, ""), |at| location.split_at(at));
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in relative.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(format!("{scheme}://{host}/{}{query}", parts.join("/")))
}
