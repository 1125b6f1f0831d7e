"""libtorrent as a program. Runs by itself with the Python of the other programs; needs nothing of this project.

torrent_peer.py make FOLDER|FILE TORRENT
torrent_peer.py seed TORRENT PARENT HOST:PORT
torrent_peer.py get TORRENT PARENT HOST:PORT PEER...     says "done SECONDS" by the monotonic clock, and goes on serving
"""

from __future__ import annotations

import os
import sys
import time

import libtorrent as lt

ALERTS = lt.alert.category_t.status_notification | lt.alert.category_t.error_notification | lt.alert.category_t.storage_notification


def make(what: str, torrent: str) -> None:
    made = lt.create_torrent(lt.list_files(what), 0, lt.create_torrent.v2_only)
    lt.set_piece_hashes(made, os.path.dirname(what))
    with open(torrent, "wb") as file:
        file.write(lt.bencode(made.generate()))


def session(listen: str) -> lt.session:
    """Plain, without any limit, and in touch with nobody but who is named."""
    return lt.session(
        {
            "listen_interfaces": listen,
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "out_enc_policy": 2,  # disabled
            "in_enc_policy": 2,
            "allow_multiple_connections_per_ip": True,
            "unchoke_slots_limit": -1,
            "connection_speed": 1000,
            "enable_outgoing_utp": False,
            "enable_incoming_utp": False,
            "alert_mask": ALERTS,
            # Queues for a fast line; with its defaults it waits more than it works.
            "max_queued_disk_bytes": 64 << 20,
            "send_buffer_watermark": 4 << 20,
            "send_buffer_low_watermark": 1 << 20,
            "max_out_request_queue": 2000,
            "max_allowed_in_request_queue": 4000,
        }
    )


def join(torrent: str, parent: str, listen: str, peers: list[str], seeds: bool) -> None:
    here = session(listen)
    wanted = lt.add_torrent_params()
    wanted.ti = lt.torrent_info(torrent)
    wanted.save_path = parent
    wanted.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if seeds:
        wanted.flags |= lt.torrent_flags.seed_mode
    handle = here.add_torrent(wanted)
    while seeds and not handle.status().is_seeding:
        time.sleep(0.02)
    print("ready", flush=True)
    for peer in peers:
        host, _, port = peer.rpartition(":")
        handle.connect_peer((host, int(port)))
    done = seeds
    while True:
        here.wait_for_alert(1000)
        for alert in here.pop_alerts():
            if isinstance(alert, lt.torrent_finished_alert) and not done:
                handle.flush_cache()
            elif isinstance(alert, lt.cache_flushed_alert) and not done:
                done = True
                print("done", time.monotonic(), flush=True)
            elif "error" in type(alert).__name__:
                print("error", alert.message(), flush=True)


def main() -> None:
    what, *arguments = sys.argv[1:]
    if what == "make":
        make(*arguments)
    else:
        torrent, parent, listen, *peers = arguments
        join(torrent, parent, listen, peers, what == "seed")


if __name__ == "__main__":
    main()
