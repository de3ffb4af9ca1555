/*
 * Compiled into DPDK's ipsec-secgw: how many packets its two ports have received and sent, asked while it works.
 *
 * Each line on its standard input is answered by one on its standard output: nanoseconds since boot, nanoseconds that the first
 * thread, which forwards, has worked, then packets received and sent by port 0 and by port 1. What the gateway itself prints
 * goes to standard error.
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include <rte_common.h>
#include <rte_ethdev.h>

static FILE *answers;
static clockid_t work;

static int64_t nanoseconds(clockid_t clock)
{
	struct timespec now = { 0 };

	clock_gettime(clock, &now);
	return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void *answer(void *unused)
{
	char letter;

	/* Not by stdin: who waits for it holds its lock, which the gateway wants as well. */
	while (read(STDIN_FILENO, &letter, 1) == 1) {
		struct rte_eth_stats ports[2] = { { 0 } };
		if (letter != '\n')
			continue;
		for (int port = 0; port < 2; port++)
			rte_eth_stats_get(port, &ports[port]);
		fprintf(answers,
			"%" PRId64 " %" PRId64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
			nanoseconds(CLOCK_MONOTONIC), nanoseconds(work),
			ports[0].ipackets, ports[0].opackets,
			ports[1].ipackets, ports[1].opackets);
		fflush(answers);
	}
	/* Whoever asked is gone. */
	_exit(0);
	return unused;
}

RTE_INIT(start_to_answer)
{
	pthread_t thread;

	answers = fdopen(dup(STDOUT_FILENO), "w");
	if (answers == NULL || pthread_getcpuclockid(pthread_self(), &work) != 0 ||
			dup2(STDERR_FILENO, STDOUT_FILENO) < 0 ||
			pthread_create(&thread, NULL, answer, NULL) != 0)
		abort();
}
