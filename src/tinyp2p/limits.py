"""Numbers in one place: what the protocol fixes, apart from what is our own choice (docs/protocol.md)."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- fixed by the protocol -------------------------------------------------------------------------------------------
PROTOCOL_VERSION = 1
CHUNK_SIZE = MIB
HASH_SIZE = 32
ID_LENGTH = 52
SLOT_BITS = 32
ENTRIES_PER_BUCKET = 256
VERSION_BLOCK = 4096
MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
MAX_FILE_SIZE = 1 << 53
SERVER_DOMAIN = "group.tinyp2p"
ALPN = "http/1.1"

# --- what we accept from others --------------------------------------------------------------------------------------
MAX_HEADER_BYTES = 16 * KIB
MAX_HEADERS = 64
MAX_KNOCKS = 512  # unfinished handshakes; as many again who have not said the server name yet
MAX_KNOCKS_OF_ONE = 256
MAX_HELLO_BYTES = 16 * KIB
HANDSHAKES, HANDSHAKES_S = 50, 0.125  # so many are begun in this time
MAX_CONNECTIONS = 2_000
MAX_CONNECTIONS_OF_ONE = 256
# Requests at work: for content, for what is worked out (lists, manifests, rechecks), and others.
MAX_CONTENT = 256
MAX_CONTENT_OF_ONE = 48
MAX_CONTENT_SPARED = 4  # the first few of each member find room however many the others have
MAX_LISTS = 4
MAX_LISTS_OF_ONE = 3
MAX_GROWING_OF_ONE = 64  # files hashed on demand
MAX_REQUESTS = 1_024
MAX_REQUESTS_OF_ONE = 64
MAX_JSON_BYTES = 4 * MIB
MAX_CHANGES_BYTES = 128 * MIB
MAX_BUCKET_BYTES = 16 * MIB
MAX_BUCKET_BITS = 20
# A short entry takes several times its bytes in memory, so they are counted (by their brackets) before they are decoded.
MAX_CHANGES_BRACKETS = 1_000_000
MAX_BUCKET_BRACKETS = 64 * KIB
MAX_MANIFEST_BYTES = 256 * MIB
MAX_RECORDS = 2_000
MAX_NOTICES = 1_500
MAX_RENEWED = 2_000
MAX_RENEWAL_BYTES = 2 * MIB
MAX_RECORD_BYTES = 64 * KIB
MAX_AUDIENCE = 1_000
MAX_ADDRESSES = 16
MAX_MEMBERS = 10_000
MAX_SHARES_PER_MEMBER = 1_000
MAX_HELD_BYTES = 256 * MIB  # of all records
MAX_ENTRIES_PER_SHARE = 20_000_000
INDEX_BUDGET_ENTRIES = 50_000_000
MAX_NEARBY = 1_000
MAX_KNOCKING = 16
MAX_INVITE_BYTES = 4 * KIB

# --- our own choices -------------------------------------------------------------------------------------------------
DEFAULT_PORT = 22004
HANDSHAKE_TIMEOUT_S = 5.0
HEADER_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 4.0
REQUEST_TIMEOUT_S = 20.0
SLOWEST_LINE = 64 * KIB  # bytes a second below which a long answer is given up
STALL_TIMEOUT_S = 20.0
KEEP_ALIVE_S = 60
SEND_STALL_S = 300.0  # for the next MiB to be taken: a very slow line, shared by many transfers, is none
BUSY_WAITS_S = (0.5, 1.0, 2.0)  # before a busy member is asked again
BUSY_AFTER_S = 5.0  # how long a request waits for its turn
GOSSIP_INTERVAL_S = 2.0
GOSSIP_FANOUT = 3
PUSH_ALL_BELOW = 16
HEARTBEAT_S = 60.0
ONLINE_FOR_S = 150.0
RETRY_FIRST_S = 1.0
RETRY_MAX_S = 60.0
PUBLISH_INTERVAL_S = 1.0
CID_BATCH_FIRST_S = 1.0
CID_BATCH_MAX_S = 30.0
RESCAN_AGAIN_S = 1.0
FULL_SCAN_S = 3600.0
POLL_SCAN_S = 2.0
CHANGES_ALWAYS = 8_192
REMOVED_KEPT = 100_000
SYNC_BYTES = 16 * MIB
REQUEST_CHUNKS = 4
CONNECTIONS_PER_SOURCE = 2
REQUESTS_PER_CONNECTION = 2
FILES_AT_ONCE = 16
SOURCES_PER_FILE = 8
FREE_SPACE_KEPT = GIB
CONFIRM_FILES = 1_000
CONFIRM_BYTES = 10 * GIB
JOIN_TIMEOUT_S = 10.0
INVITE_DAYS = 7
LAN_CHECK_S = 5.0
LAN_SEARCH_S = 10.0
CODE_S = 600
NEW_CODES = 10
PAIRING_TIMEOUT_S = 10.0
PASSWORD_SCORE = 3
ARGON2_MEMORY_KIB = 256 * KIB
ARGON2_PASSES = 3
