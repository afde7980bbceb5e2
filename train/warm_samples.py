"""Recordings of a few lines in formats with readers of their own, for `neuralmm warm`."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

MESSAGES: Final = """34200.1,1,1,100,1000000,1
34200.2,1,2,100,1000200,-1
34200.3,1,3,100,1000000,1
34201.1,4,2,50,1000200,-1
34202.2,4,1,50,1000000,1
34203.5,2,3,50,1000000,1
34204.5,1,4,50,999900,1
34205.5,3,4,50,999900,1
"""
"""Of LOBSTER, one level: time, type, order, shares, price in 1/10,000 dollars, side."""

BOOK: Final = """9999999999,0,1000000,100
1000200,100,1000000,100
1000200,100,1000000,200
1000200,50,1000000,200
1000200,50,1000000,150
1000200,50,1000000,100
1000200,50,1000000,100
1000200,50,1000000,100
"""

PLAIN: Final = """symbol,kind,local_ns,exch_ns,side,price,size,id,previous_id
X,snapshot,1340285400134499000,1340285400134158000,bid,49.99,7,12,
X,snapshot,1340285400134499000,1340285400134158000,ask,50.01,7,12,
X,depth,1340285400234499000,1340285400234158000,ask,50.02,5,13,12
X,trade,1340285400334499000,1340285400334158000,buy,50.01,1,1,
"""

DATABENTO: Final = """ts_recv,ts_event,rtype,publisher_id,instrument_id,action,side,price,size,channel_id,\
order_id,flags,ts_in_delta,sequence,symbol
1340285400134499000,1340285400134158000,160,1,42,R,N,,0,0,0,8,0,0,ESM2
1340285400134499000,1340285400134158000,160,1,42,A,B,49.99,2,0,101,136,0,1,ESM2
1340285400134499000,1340285400134158000,160,1,42,A,A,50.01,7,0,102,136,0,2,ESM2
1340285400234499000,1340285400234158000,160,1,42,T,B,50.01,1,0,0,0,0,3,ESM2
1340285400234499000,1340285400234158000,160,1,42,F,A,50.01,1,0,102,0,0,4,ESM2
1340285400234499000,1340285400234158000,160,1,42,C,A,50.01,1,0,102,128,0,5,ESM2
"""

OKX: Final = """1723100000000000000 {"arg":{"channel":"books","instId":"A-B"},"action":"snapshot","data":\
[{"bids":[["99","5","0","1"]],"asks":[["101","5","0","1"]],"ts":"1723100000000","seqId":3,"prevSeqId":-1}]}
1723100000100000000 {"arg":{"channel":"books","instId":"A-B"},"action":"update","data":\
[{"bids":[["98","7","0","1"]],"asks":[],"ts":"1723100000100","seqId":6,"prevSeqId":3}]}
1723100000200000000 {"arg":{"channel":"trades","instId":"A-B"},"data":\
[{"instId":"A-B","tradeId":"1","px":"101","sz":"1","side":"buy","ts":"1723100000200"}]}
"""
"""Of OKX's websocket; those of all venues but Binance are read by the same code."""

BINANCE: Final = """1723100000000000000 {"lastUpdateId":1,"E":1723100000000,"T":1723100000000,\
"bids":[["99","5"]],"asks":[["101","5"]]}
1723100000100000000 {"stream":"ab@depth","data":{"e":"depthUpdate","E":1723100000100,"T":1723100000100,\
"s":"AB","U":1,"u":3,"pu":1,"b":[["98","7"]],"a":[]}}
1723100000150000000 {"stream":"ab@bookTicker","data":{"e":"bookTicker","u":4,"s":"AB","b":"99","B":"4",\
"a":"101","A":"5","T":1723100000150,"E":1723100000150}}
1723100000200000000 {"stream":"ab@trade","data":{"e":"trade","E":1723100000200,"T":1723100000200,"s":"AB",\
"t":1,"p":"101","q":"1","X":"MARKET","m":false}}
"""

BITSTAMP: Final = """1430438404518 order_created {"price":"99","amount":"2","id":1,"order_type":0}
1430438404528 order_book {"bids":[["99","2"]],"asks":[["101","2"]]}
1430438404538 order_changed {"price":"99","amount":"1","id":1,"order_type":0}
1430438404548 trade {"price":99,"amount":1.0,"id":8}
1430438404558 order_deleted {"price":"99","amount":"1","id":1,"order_type":0}
"""

COINBASE: Final = """1340285400134499000 {"sequence":0,"bids":[["99","5","a"]],"asks":[["101","5","b"]]}
1340285400234499000 {"type":"open","product_id":"A-B","time":"2012-06-21T13:30:00.2Z","sequence":1,\
"side":"buy","order_id":"c","price":"98","remaining_size":"2"}
1340285400334499000 {"type":"match","product_id":"A-B","time":"2012-06-21T13:30:00.3Z","sequence":2,\
"side":"buy","maker_order_id":"a","price":"99","size":"2","trade_id":1}
"""
"""Of the channel `full`."""


def itch() -> bytes:
    """Messages of NASDAQ ITCH 5.0: a stock, an order to buy and one to sell, which trades."""
    out = b""
    for number, (kind, body) in enumerate(
        [
            (b"R", b"ABC     Q N" + struct.pack(">I", 100) + b"N" * 13),
            (b"A", struct.pack(">QcI8sI", 1, b"B", 5, b"ABC     ", 990_000)),
            (b"A", struct.pack(">QcI8sI", 2, b"S", 5, b"ABC     ", 1_010_000)),
            (b"E", struct.pack(">QIQ", 2, 1, 1)),
        ]
    ):
        message = kind + struct.pack(">HH", 7, 0) + (34_200_000_000_000 + number).to_bytes(6, "big") + body
        out += struct.pack(">H", len(message)) + message
    return out


def dbn() -> bytes:
    """The orders of `DATABENTO` as DBN, version 3."""
    name = b"ESM2".ljust(71, b"\0")
    head = struct.pack(
        "<16sHQQQBBBH53x", b"GLBX.MDP3", 0, 1_340_285_400_134_499_000, 2**64 - 1, 0, 1, 0, 0, 71
    )
    head += struct.pack("<II", 0, 1) + name + struct.pack("<III", 0, 0, 1)
    head += name + struct.pack("<III", 1, 20120601, 20120701) + b"42".ljust(71, b"\0")
    body = b""
    for line in DATABENTO.splitlines()[1:]:
        recv, event, _, _, _, action, side, price, size, _, order, flags, _, sequence, _ = line.split(",")
        units = round(float(price) * 1e9) if price else 2**63 - 1
        body += struct.pack(
            "<BBHIQQqIBBccQiI", 14, 160, 1, 42, int(event), int(order), units, int(size), int(flags), 0,
            action.encode(), side.encode(), int(recv), 0, int(sequence),
        )  # fmt: skip
    return b"DBN\3" + struct.pack("<I", len(head)) + head + body


READERS: Final[dict[str, dict[str, str | bytes]]] = {
    "lobster": {
        f"WARM_2020-01-02_34200000_34210000_{kind}_1.csv": text
        for kind, text in (("message", MESSAGES), ("orderbook", BOOK))
    },
    "plain": {"x.csv": PLAIN},
    "databento": {"x.csv": DATABENTO},
    "databento-dbn": {"x.dbn": dbn()},
    "itch": {"01302019.NASDAQ_ITCH50": itch()},
}
"""Files by format, whose name goes up to a dash."""
CAPTURES: Final[dict[str, dict[str, str | bytes]]] = {
    name: {"x.raw": text}
    for name, text in (("okx", OKX), ("binance", BINANCE), ("bitstamp", BITSTAMP), ("coinbase", COINBASE))
}


def write(files: dict[str, str | bytes], folder: Path) -> tuple[Path, ...]:
    """The paths of the files, written."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return tuple(folder / name for name in files)
