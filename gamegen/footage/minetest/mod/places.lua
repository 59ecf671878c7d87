-- Finds open ground in a biome, and tells what is around the player.

local places = {}

local TRIES = 4000
local REACH = 12000 -- nodes from the origin
local RING_RADII = {12, 26, 40}
local MAX_RISE = 9 -- nodes between the middle and a ring
local LOOK_AHEAD = {1.5, 3, 4.5, 6}
local MAX_DROP = 4

local function is_air_like(node)
	local def = minetest.registered_nodes[node.name]
	return def ~= nil and not def.walkable and def.liquidtype == "none"
end

local function is_liquid(node)
	local def = minetest.registered_nodes[node.name]
	return def ~= nil and def.liquidtype ~= "none"
end

local function biome_at(pos)
	local data = minetest.get_biome_data(pos)
	return data and minetest.get_biome_name(data.biome) or "unknown"
end

-- Whether land without water or cliffs, and of the same biome near by, lies around a place.
local function is_open_land(x, y, z, biome)
	local misses = 0
	for ring, radius in ipairs(RING_RADII) do
		for step = 0, 7 do
			local angle = step * math.pi / 4
			local rx = math.floor(x + radius * math.cos(angle))
			local rz = math.floor(z + radius * math.sin(angle))
			local ry = minetest.get_spawn_level(rx, rz)
			if not ry or math.abs(ry - y) > MAX_RISE then
				misses = misses + 1
			elseif ring < 3 and biome_at({x = rx, y = ry, z = rz}) ~= biome then
				misses = misses + 1
			end
			if misses > 2 then
				return false
			end
		end
	end
	return true
end

-- A position on the surface of a biome, nil if the seed leads to none.
function places.find(biome, seed)
	local random = PcgRandom(seed)
	for _ = 1, TRIES do
		local x, z = random:next(-REACH, REACH), random:next(-REACH, REACH)
		local y = minetest.get_spawn_level(x, z)
		if y and y > 2 and biome_at({x = x, y = y, z = z}) == biome and is_open_land(x, y, z, biome) then
			return {x = x, y = y + 1, z = z}
		end
	end
	return nil
end

-- Generates the land the player can see from `pos`, then calls `done`.
function places.generate(pos, done)
	local low = {x = pos.x - 56, y = pos.y - 20, z = pos.z - 56}
	local high = {x = pos.x + 56, y = pos.y + 30, z = pos.z + 56}
	minetest.emerge_area(low, high, function(_, _, remaining)
		if remaining == 0 then
			done()
		end
	end)
end

local function surface_below(x, y, z, depth)
	for dy = 0, depth do
		local pos = {x = x, y = y - dy, z = z}
		local node = minetest.get_node(pos)
		if not is_air_like(node) then
			return pos, node
		end
	end
	return nil
end

-- Standing room under the open sky near `pos`, nil if there is none.
function places.open_ground(pos)
	for radius = 0, 14, 2 do
		for step = 0, (radius == 0 and 0 or 7) do
			local angle = step * math.pi / 4
			local x = math.floor(pos.x + radius * math.cos(angle) + 0.5)
			local z = math.floor(pos.z + radius * math.sin(angle) + 0.5)
			local ground, node = surface_below(x, pos.y + 12, z, 24)
			local soil = ground and not is_liquid(node) and minetest.get_item_group(node.name, "leaves") == 0
				and minetest.get_item_group(node.name, "tree") == 0
			if soil and minetest.get_natural_light({x = x, y = ground.y + 1, z = z}, 0.5) == 15 then
				return {x = x, y = ground.y + 0.5, z = z}
			end
		end
	end
	return nil
end

-- Water or a cliff on the way the player walks (or looks, when standing).
local function hazard_ahead(player, pos)
	local velocity = player:get_velocity()
	local speed = math.sqrt(velocity.x ^ 2 + velocity.z ^ 2)
	local direction = speed > 0.8 and {x = velocity.x / speed, z = velocity.z / speed}
		or minetest.yaw_to_dir(player:get_look_horizontal())
	for _, distance in ipairs(LOOK_AHEAD) do
		local x = math.floor(pos.x + direction.x * distance + 0.5)
		local z = math.floor(pos.z + direction.z * distance + 0.5)
		local ground, node = surface_below(x, math.floor(pos.y + 2.5), z, MAX_DROP + 3)
		if not ground or is_liquid(node) then
			return true
		end
	end
	return false
end

-- What the recorder wants to know about the player's surroundings.
function places.describe(player, pos)
	local head = {x = pos.x, y = pos.y + 1.5, z = pos.z}
	local in_liquid = is_liquid(minetest.get_node(pos)) or is_liquid(minetest.get_node(head))
	local daylight = minetest.get_natural_light(head, 0.5) or 15
	return {
		biome = biome_at(pos),
		liquid = in_liquid,
		daylight = daylight,
		hazard = hazard_ahead(player, pos),
		fall_speed = -player:get_velocity().y,
	}
end

return places
