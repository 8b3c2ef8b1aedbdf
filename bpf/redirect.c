// Hands new TCP connections of chosen ports to the agent. Runs when the stack looks for a listener: once for a
// connection's SYN (and for its ACK under SYN cookies), never for packets of established connections.
//
// Compiled by tpnet/datapath/loader.py through BCC, attached to one network namespace by a link. Whatever it does not
// positively know it passes: an empty map means "as if never there". UAPI contexts only, so no kernel headers.

// BCC rewrites .lookup(); these it has no macro for, so they are called by number (include/uapi/linux/bpf.h).
static __u64 (*ktime_get_ns)(void) = (void *)5;
static long (*sk_release)(void *sock) = (void *)86;
static long (*sk_assign)(struct bpf_sk_lookup *ctx, void *sock, __u64 flags) = (void *)124;

#define FAMILY_INET 2
#define FAMILY_INET6 10
#define PROTOCOL_TCP 6
#define MAPPED_PREFIX __builtin_bswap32(0xffff)

// Keeps clang from merging the tails of two branches into one load through a computed pointer into the context, which
// the verifier refuses.
#define KEEP_APART(n) asm volatile("" ::"i"(n))

// One end of a connection. IPv4 addresses are v4-mapped (::ffff:a.b.c.d). Address and port in network byte order.
// tpnet/kernel/endpoint.py packs the same 20 bytes.
struct endpoint {
	__be32 addr[4];
	__be16 port;
	__u16 zero;
};

// Where an app listens and the agent takes over: local endpoint -> the agent's listener. An entry goes with its
// listener, whoever closes it.
BPF_TABLE("sockhash", struct endpoint, __u64, listeners, 1024);

// What passes: the agent's own connections to the app, by the address and port they come from; with port 0, all of an
// address until that time, of which the worker has as many as it should.
BPF_TABLE("lru_hash", struct endpoint, __u64, bypass, 4096);

// Where among the signs a port has its two words, IPv4's and IPv6's. Ports that were never redirected have none.
BPF_TABLE("hash", __u32, __u32, places, 1024);

// Signs of life, the same map in every namespace of an agent. Its processes write them through memory, and so at no
// price: see tpnet/kernel/signs.py, which has the same indices, times and levels.
BPF_F_TABLE("array", __u32, __u64, signs, 8192, BPF_F_MMAPABLE);

enum { WORKER = 0, SUPERVISOR = 1, WITHDRAWN = 2, FIRST_PLACE = 4 };
enum { AWAY = 0, LOW = 1, SERVES = 2, ALWAYS = 3 };

#define WORKER_NS 1000000000ULL
#define SUPERVISOR_NS 300000000ULL
// ktime_get_ns is the fast clock, which may be a little behind the one that the processes read.
#define AHEAD_NS 10000000ULL
#define INLINE static inline __attribute__((always_inline))

INLINE __u64 sign(__u32 index)
{
	__u64 *word = signs.lookup(&index);

	return word ? *(volatile __u64 *)word : 0;
}

// Whether its last sign of life is at most so old. One from further ahead is none: the difference is huge then.
INLINE int alive(__u32 who, __u64 limit)
{
	__u64 last = sign(who);

	return ktime_get_ns() + AHEAD_NS - last <= limit + AHEAD_NS;
}

// Whether somebody is there to take the connection.
INLINE int taken_care_of(__u32 place)
{
	__u64 level = sign(place);

	if (level == ALWAYS)
		return 1;
	if ((level != SERVES && level != LOW) || sign(WITHDRAWN))
		return 0;
	return alive(WORKER, WORKER_NS) && (level == SERVES || alive(SUPERVISOR, SUPERVISOR_NS));
}

int redirect(struct bpf_sk_lookup *ctx)
{
	struct endpoint remote = {};
	struct endpoint local = {};
	__u32 port = ctx->local_port;
	__u32 *place;
	__u64 *until;
	void *listener;

	if (ctx->protocol != PROTOCOL_TCP)
		return SK_PASS;

	place = places.lookup(&port);
	if (!place || !taken_care_of(*place + (ctx->family == FAMILY_INET6)))
		return SK_PASS;

	if (ctx->family == FAMILY_INET) {
		remote.addr[2] = MAPPED_PREFIX;
		remote.addr[3] = ctx->remote_ip4;
		local.addr[2] = MAPPED_PREFIX;
		local.addr[3] = ctx->local_ip4;
		KEEP_APART(4);
	} else if (ctx->family == FAMILY_INET6) {
		remote.addr[0] = ctx->remote_ip6[0];
		remote.addr[1] = ctx->remote_ip6[1];
		remote.addr[2] = ctx->remote_ip6[2];
		remote.addr[3] = ctx->remote_ip6[3];
		local.addr[0] = ctx->local_ip6[0];
		local.addr[1] = ctx->local_ip6[1];
		local.addr[2] = ctx->local_ip6[2];
		local.addr[3] = ctx->local_ip6[3];
		KEEP_APART(6);
	} else {
		return SK_PASS;
	}
	// Network byte order, in the first two bytes of the field whether it is 32 bits wide (up to 5.17) or 16.
	remote.port = *(__u16 *)&ctx->remote_port;
	local.port = __builtin_bswap16((__u16)ctx->local_port);

	if (bypass.lookup(&remote))
		return SK_PASS;
	remote.port = 0;
	until = bypass.lookup(&remote);
	if (until && *until > ktime_get_ns())
		return SK_PASS;

	// As the stack itself does: a listener on this very address before one on every address of the family.
	listener = listeners.lookup(&local);
	if (!listener) {
		local.addr[0] = 0;
		local.addr[1] = 0;
		local.addr[2] = ctx->family == FAMILY_INET ? MAPPED_PREFIX : 0;
		local.addr[3] = 0;
		listener = listeners.lookup(&local);
		if (!listener)
			return SK_PASS;
	}
	// A listener that does not fit (an IPv4 one, an IPv6 packet) is not selected, and the app gets the connection.
	sk_assign(ctx, listener, 0);
	sk_release(listener);
	return SK_PASS;
}
