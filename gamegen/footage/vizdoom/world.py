"""Generates a ViZDoom world: one WAD file with an outdoor UDMF map of hills and trees for each biome."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from random import Random

from gamegen.footage.vizdoom import art

CELLS = 24
CELL_UNITS = 256
WORLD_UNITS = CELLS * CELL_UNITS
RIM_UNITS = 80
CLEARING_UNITS = 200
SKY_HEIGHT = 1400
FIRST_TREE_TYPE = 29010
WEATHER_TYPE = 29001
WEATHER_TOKENS = {"rain": "GGRainToken", "snow": "GGSnowToken", "dust": "GGDustToken"}


@dataclass(frozen=True)
class Biome:
    """`ground` and `tree` name pictures of `art`; `hills` is the greatest height of one wave in map units."""

    ground: str
    tree: str
    num_trees: int
    hills: float


BIOMES = {
    "grassland": Biome("GGGRASS", "GGTA", 70, 30),
    "deciduous forest": Biome("GGLEAVES", "GGTA", 330, 35),
    "coniferous forest": Biome("GGNEEDLE", "GGTB", 330, 50),
    "desert": Biome("GGSAND", "GGTD", 80, 55),
    "snowy grassland": Biome("GGSNOW", "GGTC", 120, 40),
    "wasteland": Biome("GGASH", "GGTE", 120, 45),
}
MAPS = {biome: f"MAP{index + 1:02d}" for index, biome in enumerate(BIOMES)}
"""Map name of each biome."""


def _heights(rng: Random, hills: float) -> dict[tuple[int, int], int]:
    """Ground height of every grid corner: a sum of long waves."""
    waves = [
        (rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0, 6), rng.uniform(hills / 4, hills))
        for _ in range(6)
    ]

    def height(i: int, j: int) -> int:
        return round(sum(a * math.sin(u * i + p) * math.cos(v * j + p) for u, v, p, a in waves))

    return {(i, j): height(i, j) for i in range(CELLS + 1) for j in range(CELLS + 1)}


def _triangles(index: dict[tuple[int, int], int]) -> list[tuple[int, int, int]]:
    """Two triangles for each grid cell, corners clockwise: a sector lies to the right of its lines."""
    triangles = []
    for i in range(CELLS):
        for j in range(CELLS):
            a, b, c, d = index[i, j], index[i + 1, j], index[i + 1, j + 1], index[i, j + 1]
            triangles += [(a, c, b), (a, d, c)]
    return triangles


def _lines(triangles: list[tuple[int, int, int]]) -> list[str]:
    """The linedefs and sidedefs between the triangles; the outer ones block."""
    edges = {
        (triangle[k], triangle[(k + 1) % 3]): sector
        for sector, triangle in enumerate(triangles)
        for k in range(3)
    }
    lines: list[str] = []
    sides: list[str] = []
    done: set[tuple[int, int]] = set()
    for (start, end), sector in edges.items():
        if (end, start) in done:
            continue
        done.add((start, end))
        behind, side = edges.get((end, start)), len(sides)
        ends = f"v1={start};v2={end};sidefront={side};"
        if behind is None:
            lines.append(f"linedef{{{ends}blocking=true;}}")
            sides.append(f'sidedef{{sector={sector};texturemiddle="GGROCK";}}')
        else:
            lines.append(f"linedef{{{ends}sideback={side + 1};twosided=true;}}")
            sides += [f"sidedef{{sector={sector};}}", f"sidedef{{sector={behind};}}"]
    return lines + sides


def _thing(kind: int, x: float, y: float) -> str:
    skills = "".join(f"skill{i}=true;" for i in range(1, 6))
    return f"thing{{x={x:.1f};y={y:.1f};angle=90;type={kind};{skills}single=true;dm=true;coop=true;}}"


def _is_rim(triangle: tuple[int, int, int], corners: list[tuple[int, int]]) -> bool:
    return any(corners[k][axis] in (0, CELLS) for k in triangle for axis in (0, 1))


def map_text(biome: Biome, seed: int) -> str:
    """The UDMF text of a biome's map. The player starts in the middle, where no tree stands."""
    rng = Random(seed)
    heights = _heights(rng, biome.hills)
    corners = list(heights)
    triangles = _triangles({corner: k for k, corner in enumerate(corners)})
    text = ['namespace="ZDoom";']
    text += [
        f"vertex{{x={i * CELL_UNITS}.0;y={j * CELL_UNITS}.0;zfloor={heights[i, j]}.0;}}" for i, j in corners
    ]
    text += _lines(triangles)
    # A low sky over the rim lets the sky show above the wall that ends the world.
    low = max(heights.values()) + 70
    for triangle in triangles:
        ceiling = low if _is_rim(triangle, corners) else SKY_HEIGHT
        text.append(
            f'sector{{heightfloor=0;heightceiling={ceiling};texturefloor="{biome.ground}";'
            f'textureceiling="F_SKY1";lightlevel=192;}}'
        )
    middle = WORLD_UNITS / 2
    text += [_thing(1, middle, middle), _thing(WEATHER_TYPE, middle, middle)]
    kind = FIRST_TREE_TYPE + list(art.TREES).index(biome.tree)
    text += [_thing(kind, x, y) for x, y in _tree_places(biome.num_trees, rng)]
    return "\n".join(text)


def _tree_places(count: int, rng: Random) -> list[tuple[float, float]]:
    middle = WORLD_UNITS / 2
    places: list[tuple[float, float]] = []
    while len(places) < count:
        x, y = (rng.uniform(RIM_UNITS, WORLD_UNITS - RIM_UNITS) for _ in range(2))
        if math.hypot(x - middle, y - middle) > CLEARING_UNITS:
            places.append((x, y))
    return places


_SPAWN = "TNT1 A 0 A_SpawnItemEx({args},SXF_NOCHECKPOSITION)\n"


def _spawns(times: int, actor: str, forward: int, side: int, low: int, high: int, motion: str) -> str:
    args = f'"{actor}",random(40,{forward}),random(-{side},{side}),random({low},{high}),{motion},0'
    return _SPAWN.format(args=args) * times


def actor_text() -> str:
    """The DECORATE actors: trees, drops, flakes, grains, and the emitter that follows the player."""
    tokens = "".join(
        f"ACTOR {name} : Inventory {{ Inventory.MaxAmount 1 }}\n" for name in WEATHER_TOKENS.values()
    )
    trees = "".join(
        f"ACTOR GGTree{sprite} {FIRST_TREE_TYPE + k} {{ Radius 12 Height 90 Scale 1.3 +SOLID\n"
        f"States {{ Spawn:\n {sprite} A -1\n Stop\n }} }}\n"
        for k, sprite in enumerate(art.TREES)
    )
    jumps = "".join(
        f'TNT1 A 0 A_JumpIfInventory("{token}",1,"{weather.title()}",AAPTR_PLAYER1)\n'
        for weather, token in WEATHER_TOKENS.items()
    )
    drift = "random(-2,2),random(-2,2)"
    return f"""{tokens}{trees}
ACTOR GGDrop {{ Radius 1 Height 1 Speed 0 +NOBLOCKMAP +NOGRAVITY +NOTELEPORT +THRUACTORS +MISSILE
RenderStyle Translucent Alpha 0.6 States {{ Spawn:\n GGDR A 14\n Stop\n Death:\n TNT1 A 1\n Stop\n }} }}
ACTOR GGFlake : GGDrop {{ Alpha 0.9 Scale 1.3 States {{ Spawn:\n GGFL A 60\n Stop\n }} }}
ACTOR GGGrain : GGDrop {{ Alpha 0.7 States {{ Spawn:\n GGGR A 30\n Stop\n }} }}
ACTOR GGWeather {WEATHER_TYPE} {{ +NOINTERACTION +NOBLOCKMAP +NOGRAVITY Radius 1 Height 1 States {{
Spawn:
TNT1 A 1 A_Warp(AAPTR_PLAYER1,0,0,48,0,WARPF_NOCHECKPOSITION)
{jumps} Loop
Rain:
{_spawns(14, "GGDrop", 700, 420, 120, 320, "0,0,-28")} Goto Spawn
Snow:
{_spawns(6, "GGFlake", 600, 360, 80, 260, drift + ",-5")} Goto Spawn
Dust:
{_spawns(5, "GGGrain", 500, 400, 0, 160, "random(-2,2),random(8,14),-1")} Goto Spawn
}} }}"""


def _texture_text() -> str:
    width, height = art.TREE_SIZE
    lines = [
        f'Sprite "{sprite}A0",{width},{height} {{ Offset {width // 2},{height - 1} Patch "{sprite}P",0,0 }}'
        for sprite in art.TREES
    ]
    lines += [
        'Sprite "GGDRA0",2,22 { Offset 1,22 Patch "GGDRP",0,0 }',
        'Sprite "GGFLA0",4,4 { Offset 2,4 Patch "GGFLP",0,0 }',
        'Sprite "GGGRA0",4,4 { Offset 2,4 Patch "GGGRP",0,0 }',
        'Texture "GGROCK",64,64 { Patch "GGROCKP",0,0 }',
    ]
    sky_width, sky_height = art.SKY_SIZE
    lines += [
        f'Texture "{name}",{sky_width},{sky_height} {{ Patch "SKYP{k}",0,0 }}'
        for k, name in enumerate(art.SKIES)
    ]
    return "\n".join(lines)


def write_world(path: Path, seed: int) -> None:
    """Writes the WAD of the world with the given seed."""
    lumps: list[tuple[str, bytes]] = []
    for k, (name, biome) in enumerate(BIOMES.items()):
        text = map_text(biome, seed * len(BIOMES) + k)
        lumps += [(MAPS[name], b""), ("TEXTMAP", text.encode()), ("ENDMAP", b"")]
    info = "\n".join(f'map {name} "world" {{ sky1 = "GGSKYDAY" evenlighting }}' for name in MAPS.values())
    lumps += [("DECORATE", actor_text().encode()), ("TEXTURES", _texture_text().encode())]
    lumps += [("MAPINFO", info.encode()), ("P_START", b"")]
    lumps += [(f"{sprite}P", art.png(art.draw_tree(sprite, seed))) for sprite in art.TREES]
    lumps += [("GGDRP", art.png(art.draw_drop())), ("GGFLP", art.png(art.draw_flake()))]
    lumps += [("GGGRP", art.png(art.draw_grain())), ("GGROCKP", art.png(art.draw_ground((92, 88, 84), seed)))]
    lumps += [(f"SKYP{k}", art.png(art.draw_sky(sky, seed + k))) for k, sky in enumerate(art.SKIES.values())]
    lumps += [("P_END", b""), ("F_START", b"")]
    lumps += [(name, art.png(art.draw_ground(colour, seed))) for name, colour in art.GROUND.items()]
    lumps += [("F_END", b"")]
    path.write_bytes(_wad(lumps))


def _wad(lumps: list[tuple[str, bytes]]) -> bytes:
    """A patch WAD: header, the lumps one after another, then the directory of (offset, size, name)."""
    offset, directory = 12, b""
    for name, data in lumps:
        directory += struct.pack("<ii8s", offset, len(data), name.encode())
        offset += len(data)
    return struct.pack("<4sii", b"PWAD", len(lumps), offset) + b"".join(data for _, data in lumps) + directory
