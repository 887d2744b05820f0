//! Messages to start from.

use std::collections::BTreeMap;

/// RFC 4475's messages by name, from the notation of its section 2.
pub fn torture() -> BTreeMap<&'static str, Vec<u8>> {
    let mut messages: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    let mut current = "";
    let mut one_line = false;
    for line in include_str!("../torture/messages.txt")
        .lines()
        .skip_while(|line| line.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix("=== ") {
            current = name;
            messages.insert(name, Vec::new());
            continue;
        }
        let out = messages.get_mut(current).unwrap();
        match line {
            "<allOneLine>" => one_line = true,
            "</allOneLine>" => {
                one_line = false;
                out.extend_from_slice(b"\r\n");
            }
            _ => {
                expand(line, out);
                if !one_line {
                    out.extend_from_slice(b"\r\n");
                }
            }
        }
    }
    messages
}

fn expand(line: &str, out: &mut Vec<u8>) {
    let tags = [("<hex>", "</hex>"), ("<repeat count=", "</repeat>")];
    let mut rest = line;
    while let Some((at, (open, close))) = tags.iter().filter_map(|tag| Some((rest.find(tag.0)?, tag))).min() {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let (inner, after) = rest[at + open.len()..].split_once(close).unwrap();
        rest = after;
        if *open == "<hex>" {
            let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            out.extend(inner.as_bytes().chunks(2).map(octet));
        } else {
            let (count, text) = inner.split_once('>').unwrap();
            out.extend_from_slice(text.repeat(count.parse().unwrap()).as_bytes());
        }
    }
    out.extend_from_slice(rest.as_bytes());
}
