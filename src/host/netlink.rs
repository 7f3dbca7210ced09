//! IPv4 addresses of the node's interfaces, in the order of `ip addr`, asked of the kernel through
//! rtnetlink (RTM_GETADDR, rtnetlink(7)). Read only.

use std::io;
use std::net::Ipv4Addr;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_DUMP: u16 = 0x300;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const HEADER: usize = 16;
/// struct ifaddrmsg.
const ADDRESS_HEADER: usize = 8;
/// The kernel fills at most 32 KiB per datagram.
const BUFFER: usize = 64 * 1024;
/// More datagrams than any node needs.
const MAX_DATAGRAMS: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub index: u32,
    pub address: Ipv4Addr,
    pub prefix: u8,
}

/// All IPv4 addresses in kernel order.
pub fn ipv4_addresses() -> io::Result<Vec<InterfaceAddress>> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sendto(&socket, &request(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut addresses = Vec::new();
    let mut buffer = vec![0; BUFFER];
    for _ in 0..MAX_DATAGRAMS {
        let (_, count) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let datagram = buffer.get(..count).unwrap_or_default();
        if read_datagram(datagram, &mut addresses)? == Dump::Complete {
            break;
        }
    }
    Ok(addresses)
}

fn request() -> Vec<u8> {
    let length = (HEADER + ADDRESS_HEADER) as u32;
    let mut message = Vec::with_capacity(HEADER + ADDRESS_HEADER);
    message.extend(length.to_ne_bytes());
    message.extend(RTM_GETADDR.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    message.extend([0; 8]);
    message.push(AddressFamily::INET.as_raw() as u8);
    message.extend([0; ADDRESS_HEADER - 1]);
    message
}

#[derive(Debug, PartialEq, Eq)]
enum Dump {
    Complete,
    Continues,
}

fn read_datagram(mut rest: &[u8], addresses: &mut Vec<InterfaceAddress>) -> io::Result<Dump> {
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let length = length as usize;
        let Some(message) = rest.get(HEADER..length) else { break };
        match kind {
            NLMSG_DONE => return Ok(Dump::Complete),
            NLMSG_ERROR => {
                let code = u32_at(message, 0).map_or(0, |code| (code as i32).wrapping_neg());
                return Err(io::Error::from_raw_os_error(code));
            }
            RTM_NEWADDR => addresses.extend(read_address(message)),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(Dump::Continues)
}

fn read_address(message: &[u8]) -> Option<InterfaceAddress> {
    let prefix = *message.get(1)?;
    let index = u32_at(message, 4)?;
    let mut rest = message.get(ADDRESS_HEADER..)?;
    let (mut local, mut peer) = (None, None);
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else { break };
        let address = <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        match kind {
            IFA_LOCAL => local = address,
            IFA_ADDRESS => peer = address,
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    // On point-to-point links IFA_ADDRESS is the other end.
    Some(InterfaceAddress { index, address: local.or(peer)?, prefix })
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn the_loopback_address_is_among_the_real_ones() {
        let all = ipv4_addresses().unwrap();
        assert!(all.iter().any(|a| a.address == Ipv4Addr::LOCALHOST && a.prefix == 8), "{all:?}");
    }

    #[test]
    fn the_local_end_counts_and_padding_is_skipped() {
        let mut body = vec![2, 24, 0, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend(attribute(3, b"eth0\0"));
        body.extend(attribute(IFA_ADDRESS, &[10, 0, 0, 9]));
        body.extend(attribute(IFA_LOCAL, &[10, 0, 0, 1]));
        let mut datagram = message(RTM_NEWADDR, &body);
        datagram.extend(message(NLMSG_DONE, &[0; 4]));
        let mut addresses = Vec::new();
        assert_eq!(read_datagram(&datagram, &mut addresses).unwrap(), Dump::Complete);
        let address = Ipv4Addr::new(10, 0, 0, 1);
        assert_eq!(addresses, [InterfaceAddress { index: 7, address, prefix: 24 }]);
    }

    #[test]
    fn truncated_messages_end_the_datagram() {
        let full = message(RTM_NEWADDR, &[2, 24, 0, 0, 1, 0, 0, 0]);
        for cut in 0..full.len() {
            let mut addresses = Vec::new();
            let read = read_datagram(&full[..cut], &mut addresses).unwrap();
            assert_eq!((read, addresses.len()), (Dump::Continues, 0));
        }
    }

    #[test]
    fn an_error_message_is_an_error() {
        let refused = message(NLMSG_ERROR, &(-1i32).to_ne_bytes());
        let error = read_datagram(&refused, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(1));
    }
}
