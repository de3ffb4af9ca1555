/* AES-GCM by intel-ipsec-mb, for `cargo xtask bench gcm`, which compiles and drives this.
 *
 * Reads lines "API BITS OPERATION KEYS BYTES" (direct or burst; 128 or 256; seal or open) and answers each with one: nanoseconds per
 * packet, the median of SAMPLES batches. Batches of 32 packets in place, 8 bytes of associated data, nonces of 12 bytes, tags of 16.
 * "direct" is one call for each packet, "burst" is IMB_SUBMIT_AEAD_BURST's way with its jobs filled in each time, as a user must.
 * Opening goes over packets that were not sealed: this library decrypts them all the same and leaves the comparison to its user.
 *
 * To "tag API BITS BYTES" it answers with the tag of that many zeros, so that the other side knows that both do the same.
 */
#include <intel-ipsec-mb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BATCH = 32, LONGEST = 4096, ROOM = LONGEST + 64, SAMPLES = 201 };

static struct gcm_key_data keys[BATCH] __attribute__((aligned(64)));
static struct gcm_context_data context;
static uint8_t packets[BATCH][ROOM] __attribute__((aligned(64)));
static uint8_t tags[BATCH][16], nonces[BATCH][12], aads[BATCH][8];

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static int compare(const void *one, const void *other)
{
	double difference = *(const double *)one - *(const double *)other;

	return (difference > 0) - (difference < 0);
}

/* Packet i has key i % count, made of bytes 7 + i, and a nonce that ends in i. */
static void expand_keys(IMB_MGR *manager, int bits)
{
	for (int i = 0; i < BATCH; i++) {
		uint8_t key[32];

		memset(key, 7 + i, sizeof(key));
		if (bits == 128)
			IMB_AES128_GCM_PRE(manager, key, &keys[i]);
		else
			IMB_AES256_GCM_PRE(manager, key, &keys[i]);
		nonces[i][11] = i;
	}
}

static void direct(IMB_MGR *manager, int bits, int open, int count, int size)
{
	for (int i = 0; i < BATCH; i++) {
		struct gcm_key_data *key = &keys[i % count];

		if (bits == 128 && !open)
			IMB_AES128_GCM_ENC(manager, key, &context, packets[i], packets[i], size, nonces[i], aads[i], 8, tags[i], 16);
		else if (bits == 128)
			IMB_AES128_GCM_DEC(manager, key, &context, packets[i], packets[i], size, nonces[i], aads[i], 8, tags[i], 16);
		else if (!open)
			IMB_AES256_GCM_ENC(manager, key, &context, packets[i], packets[i], size, nonces[i], aads[i], 8, tags[i], 16);
		else
			IMB_AES256_GCM_DEC(manager, key, &context, packets[i], packets[i], size, nonces[i], aads[i], 8, tags[i], 16);
	}
}

static void burst(IMB_MGR *manager, int bits, int open, int count, int size)
{
	static IMB_JOB *jobs[BATCH];

	if (IMB_GET_NEXT_BURST(manager, BATCH, jobs) != BATCH) {
		fprintf(stderr, "no room for a burst\n");
		exit(1);
	}
	for (int i = 0; i < BATCH; i++) {
		IMB_JOB *job = jobs[i];

		job->cipher_mode = IMB_CIPHER_GCM;
		job->hash_alg = IMB_AUTH_AES_GMAC;
		job->cipher_direction = open ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
		job->chain_order = open ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
		job->enc_keys = job->dec_keys = &keys[i % count];
		job->key_len_in_bytes = bits / 8;
		job->src = job->dst = packets[i];
		job->cipher_start_src_offset_in_bytes = 0;
		job->hash_start_src_offset_in_bytes = 0;
		job->msg_len_to_cipher_in_bytes = size;
		job->msg_len_to_hash_in_bytes = size;
		job->iv = nonces[i];
		job->iv_len_in_bytes = 12;
		job->u.GCM.aad = aads[i];
		job->u.GCM.aad_len_in_bytes = 8;
		job->auth_tag_output = tags[i];
		job->auth_tag_output_len_in_bytes = 16;
	}
	if (IMB_SUBMIT_BURST(manager, BATCH, jobs) != BATCH) {
		fprintf(stderr, "the burst was not done: %s\n", imb_get_strerror(imb_get_errno(manager)));
		exit(1);
	}
}

int main(void)
{
	IMB_MGR *manager = alloc_mb_mgr(0);
	IMB_ARCH arch;
	char line[80], api[16], operation[16];
	int bits, count, size;

	if (!manager)
		return 1;
	init_mb_mgr_auto(manager, &arch);
	if (arch == IMB_ARCH_NONE)
		return 1;
	printf("intel-ipsec-mb %s, %s\n", imb_get_version_str(),
	       arch == IMB_ARCH_AVX512 ? "AVX-512" : arch == IMB_ARCH_AVX2 ? "AVX2" : arch == IMB_ARCH_AVX ? "AVX" : "SSE");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "tag %15s %d %d", api, &bits, &size) == 3 && size <= LONGEST) {
			expand_keys(manager, bits);
			memset(packets, 0, sizeof(packets));
			(strcmp(api, "burst") ? direct : burst)(manager, bits, 0, BATCH, size);
			for (int i = 0; i < 16; i++)
				printf("%02x", tags[BATCH - 1][i]);
			printf("\n");
		} else if (sscanf(line, "%15s %d %15s %d %d", api, &bits, operation, &count, &size) == 5 && size <= LONGEST &&
			   count >= 1 && count <= BATCH) {
			double samples[SAMPLES];

			expand_keys(manager, bits);
			for (int sample = 0; sample < SAMPLES; sample++) {
				double start = now();

				(strcmp(api, "burst") ? direct : burst)(manager, bits, !strcmp(operation, "open"), count, size);
				samples[sample] = (now() - start) / BATCH;
			}
			qsort(samples, SAMPLES, sizeof(*samples), compare);
			printf("%.3f\n", samples[SAMPLES / 2]);
		} else {
			fprintf(stderr, "not understood: %s", line);
			return 1;
		}
		fflush(stdout);
	}
	return 0;
}
