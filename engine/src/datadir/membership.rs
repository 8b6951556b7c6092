//! The members of the restored cluster: who they are, and the ids that etcd gives them.
//!
//! The rules are those of `etcdutl snapshot restore`, so that members restored by either form one cluster.

use std::collections::BTreeMap;

use serde::Serialize;
use sha1::{Digest, Sha1};

use crate::error::{Error, ErrorKind, Result};
use crate::revision::{ClusterId, MemberId};

/// What etcd calls a member that was given no name.
const DEFAULT_NAME: &str = "default";
/// Where etcd expects a member that was given no URL.
const DEFAULT_URL: &str = "http://localhost:2380";
/// etcd's `--initial-cluster-token` where none is given.
const DEFAULT_TOKEN: &str = "etcd-cluster";

/// The flags that say which member is restored, as `etcdutl snapshot restore` has them.
#[derive(Debug, Clone)]
pub struct MembershipRequest {
    /// `--name`.
    pub name: Option<String>,
    /// `--initial-cluster`: `name=url,name=url`; a repeated name gives a member several URLs.
    pub initial_cluster: Option<String>,
    /// `--initial-cluster-token`.
    pub token: String,
    /// `--initial-advertise-peer-urls`, one URL each; empty where it was not given.
    pub advertise_peer_urls: Vec<String>,
}

impl Default for MembershipRequest {
    fn default() -> Self {
        Self { name: None, initial_cluster: None, token: DEFAULT_TOKEN.to_owned(), advertise_peer_urls: Vec::new() }
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id: a hash of its URLs and the token.
    pub id: MemberId,
    /// Its name.
    pub name: String,
    /// Its peer URLs, ascending.
    pub peer_urls: Vec<String>,
}

/// All members of the restored cluster, and which of them is restored here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    members: Vec<Member>,
    own: usize,
    token: String,
}

impl Membership {
    /// Works out the members.
    ///
    /// Without `--initial-cluster` it is our name with the advertised URLs, or `http://localhost:2380`. Without `--name` we are the entry whose URLs
    /// are the advertised ones; without those either, the only entry, or the one named `default`.
    ///
    /// # Errors
    /// `Invalid`, naming the flag, for a URL that etcd would not take, a URL that occurs twice, a name that is not in
    /// `--initial-cluster`, or advertised URLs that are not those of its entry.
    pub fn resolve(request: &MembershipRequest) -> Result<Self> {
        let given_name = request.name.as_deref().filter(|name| !name.is_empty());
        let advertised = peer_urls(&request.advertise_peer_urls, "--initial-advertise-peer-urls")?;
        let cluster = match request.initial_cluster.as_deref().filter(|cluster| !cluster.is_empty()) {
            Some(cluster) => parse_cluster(cluster)?,
            None => parse_cluster(&lone_cluster(given_name.unwrap_or(DEFAULT_NAME), &advertised))?,
        };
        let own_name = own_name(given_name, &advertised, &cluster)?;
        let mut members: Vec<_> = cluster.into_iter().map(|(name, urls)| member(name, urls, &request.token)).collect();
        members.sort_by_key(|member| member.id);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(invalid(format!(
                "--initial-cluster: {} and {} get the same member id {}",
                pair[0].name, pair[1].name, pair[0].id
            )));
        }
        let own = members.iter().position(|member| member.name == own_name);
        let own = own.ok_or_else(|| Error::new(ErrorKind::Internal, "the restored member was lost"))?;
        Ok(Self { members, own, token: request.token.clone() })
    }

    /// All members, by id ascending.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member that is restored here.
    pub fn own(&self) -> &Member {
        &self.members[self.own]
    }

    /// The token of the cluster.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// All members as `--initial-cluster` takes them.
    pub fn initial_cluster(&self) -> String {
        let entries =
            self.members.iter().flat_map(|member| member.peer_urls.iter().map(|url| format!("{}={url}", member.name)));
        entries.collect::<Vec<_>>().join(",")
    }

    /// How many members there are; at least 1.
    pub fn count(&self) -> u64 {
        self.members.len() as u64
    }

    /// The cluster's id: a hash of the members' ids.
    pub fn cluster_id(&self) -> ClusterId {
        let ids: Vec<u8> = self.members.iter().flat_map(|member| member.id.0.to_be_bytes()).collect();
        ClusterId(first_8_of_sha1(&ids))
    }

    /// The `confState` value of the `meta` bucket: every member votes.
    pub(super) fn conf_state_json(&self) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct ConfState {
            voters: Vec<u64>,
            auto_leave: bool,
        }
        let voters = self.members.iter().map(|member| member.id.0).collect();
        go_json(&ConfState { voters, auto_leave: false })
    }
}

impl Member {
    /// The member as the `members` bucket and the WAL hold it.
    pub(super) fn json(&self) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Stored<'a> {
            id: u64,
            #[serde(rename = "peerURLs")]
            peer_urls: &'a [String],
            name: &'a str,
        }
        go_json(&Stored { id: self.id.0, peer_urls: &self.peer_urls, name: &self.name })
    }

    /// The member's URLs as the v2 store of a `.snap` file holds them.
    pub(super) fn raft_attributes_json(&self) -> Result<Vec<u8>> {
        #[derive(Serialize)]
        struct RaftAttributes<'a> {
            #[serde(rename = "peerURLs")]
            peer_urls: &'a [String],
        }
        go_json(&RaftAttributes { peer_urls: &self.peer_urls })
    }
}

/// JSON as Go writes it, which escapes what could close an HTML tag: bytes equal to those of etcd's own tool.
pub(super) fn go_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::Internal, "a member does not go into JSON").caused_by(error))?;
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", letter as u32)),
            _ => escaped.push(letter),
        }
    }
    Ok(escaped.into_bytes())
}

fn member(name: String, mut peer_urls: Vec<String>, token: &str) -> Member {
    peer_urls.sort();
    let id = MemberId(first_8_of_sha1(format!("{}{token}", peer_urls.concat()).as_bytes()));
    Member { id, name, peer_urls }
}

fn first_8_of_sha1(bytes: &[u8]) -> u64 {
    let digest = Sha1::digest(bytes);
    digest.iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte))
}

fn lone_cluster(name: &str, advertised: &[String]) -> String {
    match advertised {
        [] => format!("{name}={DEFAULT_URL}"),
        urls => urls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>().join(","),
    }
}

/// Which entry of the cluster is ours.
fn own_name(given: Option<&str>, advertised: &[String], cluster: &BTreeMap<String, Vec<String>>) -> Result<String> {
    let Some(name) = given else {
        let by_url = cluster.iter().find(|(_, urls)| !advertised.is_empty() && urls.as_slice() == advertised);
        let only = cluster.iter().next().filter(|_| advertised.is_empty() && cluster.len() == 1);
        let default = cluster.get_key_value(DEFAULT_NAME).filter(|_| advertised.is_empty());
        return match by_url.or(only).or(default) {
            Some((name, _)) => Ok(name.clone()),
            None if advertised.is_empty() => {
                Err(invalid("--initial-cluster names several members").hint("say with --name which one is restored"))
            }
            None => Err(invalid(format!(
                "--initial-advertise-peer-urls {} are the URLs of no member in --initial-cluster",
                advertised.join(",")
            ))),
        };
    };
    let Some(urls) = cluster.get(name) else {
        return Err(invalid(format!("--name {name} is not in --initial-cluster")));
    };
    if !advertised.is_empty() && urls.as_slice() != advertised {
        return Err(invalid(format!(
            "--initial-advertise-peer-urls {} are not the URLs of {name} in --initial-cluster, {}",
            advertised.join(","),
            urls.join(",")
        )));
    }
    Ok(name.to_owned())
}

/// `name=url,name=url` as names with their URLs, sorted.
fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let flag = "--initial-cluster";
    let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let Some((name, url)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(invalid(format!("{flag}: {entry} is not name=url")));
        };
        by_name.entry(name.to_owned()).or_default().push(url.to_owned());
    }
    if by_name.is_empty() {
        return Err(invalid(format!("{flag} names no member")));
    }
    let mut all = Vec::new();
    for urls in by_name.values_mut() {
        *urls = peer_urls(urls, flag)?;
        all.extend_from_slice(urls);
    }
    refuse_duplicates(all, flag)?;
    Ok(by_name)
}

/// The URLs checked and sorted.
fn peer_urls(urls: &[String], flag: &str) -> Result<Vec<String>> {
    let mut checked = urls
        .iter()
        .map(|url| peer_url(url.trim()).map_err(|error| error.about(flag)))
        .collect::<Result<Vec<String>>>()?;
    checked.sort();
    refuse_duplicates(checked.clone(), flag)?;
    Ok(checked)
}

fn refuse_duplicates(mut urls: Vec<String>, flag: &str) -> Result<()> {
    urls.sort();
    match urls.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(invalid(format!("{flag}: {} occurs twice", pair[0]))),
        None => Ok(()),
    }
}

/// A URL that etcd takes for a peer: http or https, host and port, and nothing behind; or a unix socket.
fn peer_url(url: &str) -> Result<String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(invalid(format!("{url} is not a URL like https://10.0.0.1:2380")));
    };
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "unix" | "unixs" if !rest.is_empty() => return Ok(format!("{scheme}://{rest}")),
        "http" | "https" => {}
        _ => return Err(invalid(format!("{url} is neither http nor https"))),
    }
    if rest.contains(['/', '?', '#', '@', ' ']) {
        return Err(invalid(format!("{url} has more than host and port"))
            .hint("a peer URL has no user, no path and no slash at its end"));
    }
    let (host, port) = rest.rsplit_once(':').unwrap_or((rest, ""));
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_sound = match bare {
        Some(address) => address.contains(':') && !address.contains(['[', ']']),
        None => !host.is_empty() && !host.contains([':', '[', ']']),
    };
    if !host_is_sound || !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err() {
        return Err(invalid(format!("{url} needs a host and a port, as in {scheme}://10.0.0.1:2380")));
    }
    Ok(format!("{scheme}://{rest}"))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(name: Option<&str>, cluster: Option<&str>, advertised: &[&str]) -> MembershipRequest {
        MembershipRequest {
            name: name.map(str::to_owned),
            initial_cluster: cluster.map(str::to_owned),
            token: "tok".to_owned(),
            advertise_peer_urls: advertised.iter().map(|&url| url.to_owned()).collect(),
        }
    }

    fn refused(request: &MembershipRequest, words: &[&str]) {
        let error = Membership::resolve(request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        for word in words {
            assert!(error.to_string().contains(word), "{error} should say {word}");
        }
    }

    const THREE: &str = "a=http://127.0.0.1:23791,c=http://127.0.0.1:23812,b=http://127.0.0.1:23801,\
                         c=http://127.0.0.1:23811";

    #[test]
    fn ids_are_those_of_etcd() {
        let three = Membership::resolve(&request(Some("b"), Some(THREE), &[])).unwrap();
        let ids: Vec<_> = three.members().iter().map(|member| member.id.to_string()).collect();
        assert_eq!(ids, ["4036b1db24775ea0", "70f08c0d0a230f3d", "8511500b6e16e00c"]);
        assert_eq!(three.cluster_id().to_string(), "ff7f7aa396f6d689");
        assert_eq!(three.own().id.to_string(), "4036b1db24775ea0");
        for (url, id, cluster) in [
            ("http://127.0.0.1:23791", "8511500b6e16e00c", "9dbc1661333875e7"),
            ("http://127.0.0.1:41791", "b3417e67ec0088c7", "10e250020ce9a350"),
        ] {
            let one = Membership::resolve(&request(None, Some(&format!("m1={url}")), &[])).unwrap();
            assert_eq!((one.own().id.to_string(), one.cluster_id().to_string()), (id.to_owned(), cluster.to_owned()));
        }
        let mut default_token = request(None, Some("m1=http://127.0.0.1:23791"), &[]);
        default_token.token = MembershipRequest::default().token;
        assert_eq!(Membership::resolve(&default_token).unwrap().own().id.to_string(), "ac7c97ef0ec193b0");
    }

    #[test]
    fn defaults_are_those_of_etcdutl() {
        let default = Membership::resolve(&MembershipRequest::default()).unwrap();
        assert_eq!(
            (default.own().name.as_str(), default.own().peer_urls.as_slice()),
            ("default", &["http://localhost:2380".to_owned()][..])
        );
        assert_eq!(Membership::resolve(&request(Some("m9"), None, &[])).unwrap().own().name, "m9");
    }

    #[test]
    fn the_name_is_found_by_the_advertised_urls_in_any_order() {
        let urls = ["http://127.0.0.1:23812", "http://127.0.0.1:23811"];
        assert_eq!(Membership::resolve(&request(None, Some(THREE), &urls)).unwrap().own().name, "c");
        let one = request(None, Some("ctl=https://ctl:2380"), &["HTTPS://ctl:2380"]);
        assert_eq!(Membership::resolve(&one).unwrap().own().name, "ctl");
    }

    #[test]
    fn a_name_that_is_not_in_the_cluster_is_refused() {
        refused(&request(Some("x"), Some(THREE), &[]), &["--name", "--initial-cluster"]);
    }

    #[test]
    fn several_members_and_no_name_is_refused() {
        refused(&request(None, Some(THREE), &[]), &["--initial-cluster"]);
        refused(&request(None, Some(THREE), &["http://127.0.0.1:23811"]), &["--initial-advertise-peer-urls"]);
    }

    #[test]
    fn urls_that_are_not_those_of_the_entry_are_refused() {
        let flags = ["--initial-advertise-peer-urls", "--initial-cluster"];
        refused(&request(Some("a"), Some(THREE), &["http://127.0.0.1:23801"]), &flags);
        refused(&request(Some("c"), Some(THREE), &["http://127.0.0.1:23811"]), &flags);
    }

    #[test]
    fn a_lone_member_needs_no_initial_cluster() {
        let alone = Membership::resolve(&request(Some("m1"), None, &["http://h:1"])).unwrap();
        assert_eq!(alone.initial_cluster(), "m1=http://h:1");
        let unnamed = Membership::resolve(&request(None, None, &[])).unwrap();
        assert_eq!(unnamed.initial_cluster(), "default=http://localhost:2380");
    }

    #[test]
    fn a_url_twice_is_refused() {
        refused(&request(None, Some("a=http://h:1,b=http://h:1"), &[]), &["--initial-cluster", "http://h:1"]);
        refused(&request(None, Some("a=http://h:1,a=http://h:1"), &[]), &["--initial-cluster", "http://h:1"]);
    }

    #[test]
    fn what_etcd_takes_for_no_peer_url_is_refused() {
        for url in [
            "",
            "h:1",
            "ftp://h:1",
            "http://h",
            "http://h:",
            "http://h:x",
            "http://h:65536",
            "http://:1",
            "http://h:1/",
            "http://h:1/p",
            "http://u@h:1",
            "http://h:1?q",
            "http://::1:1",
            "http://[h]:1",
            "http://h:+1",
            "unix://",
        ] {
            refused(&request(None, Some(&format!("a={url}")), &[]), &["--initial-cluster"]);
        }
        refused(&request(None, Some("http://h:1"), &[]), &["--initial-cluster", "name=url"]);
        refused(&request(None, Some("a=http://h:1"), &["http://h:1/"]), &["--initial-advertise-peer-urls"]);
        for url in ["http://h:1", "https://[::1]:2380", "unix://a/b.sock:1"] {
            assert!(Membership::resolve(&request(None, Some(&format!("a={url}")), &[url])).is_ok(), "{url}");
        }
    }

    #[test]
    fn a_member_is_written_as_go_writes_it() {
        let one = Membership::resolve(&request(None, Some("a&b=http://127.0.0.1:41791"), &[])).unwrap();
        let expected = r#"{"id":12916744191081482439,"peerURLs":["http://127.0.0.1:41791"],"name":"a\u0026b"}"#;
        assert_eq!(one.own().json().unwrap(), expected.as_bytes());
        let conf_state = r#"{"voters":[12916744191081482439],"auto_leave":false}"#;
        assert_eq!(one.conf_state_json().unwrap(), conf_state.as_bytes());
    }
}
