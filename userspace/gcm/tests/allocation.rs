//! Once a key is expanded, sealing and opening allocate nothing.
//!
//! What C allocates is not seen here; AWS-LC's functions that are in use keep their state on the stack.

mod support;

use support::{all, key, nonce_of};

#[test]
fn no_provider_allocates_per_packet() {
    for (provider, algorithm) in all() {
        let key = key(provider, algorithm, &vec![1; algorithm.key_len()]);
        let (mut data, mut tag) = (vec![7; 1504], vec![0; algorithm.tag_len()]);
        let mut iv = vec![0; algorithm.iv_len()];
        let counted = allocation_counter::measure(|| {
            key.iv(1, &mut iv);
            key.seal(&nonce_of(&[]), &[0; 12], &mut data, &mut tag).unwrap();
            key.open(&nonce_of(&[]), &[0; 12], &mut data, &tag).unwrap();
            tag[0] ^= 1;
            key.open(&nonce_of(&[]), &[0; 12], &mut data, &tag).unwrap_err();
        });
        assert_eq!(counted.count_total, 0, "{key:?}");
    }
}
