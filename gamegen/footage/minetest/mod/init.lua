-- Server side of the recorder. It reads commands from <world>/command.json, and after every server step
-- writes what the world is like to <world>/status.json (both replaced whole, so never half-read).

local mod_path = minetest.get_modpath("gamegen")
local atmosphere = dofile(mod_path .. "/atmosphere.lua")
local places = dofile(mod_path .. "/places.lua")

local PLAYER = "singleplayer"
local world_path = minetest.get_worldpath()
local state = {id = 0, weather = "clear", time = "day", ready = true, found = true}

-- A pickaxe that reaches nothing: an attack swings it and leaves the land whole.
minetest.register_tool("gamegen:pickaxe", {
	description = "Pickaxe",
	inventory_image = "default_tool_diamondpick.png",
	range = 0,
})

local function enter(player, scene)
	state.ready, state.found = false, false
	local pos = places.find(scene.biome, scene.seed)
	if not pos then
		state.ready = true
		return
	end
	player:set_pos(pos)
	places.generate(pos, function()
		local ground = places.open_ground(pos)
		state.found = ground ~= nil
		if ground then
			player:set_pos(ground)
			player:set_look_horizontal(math.rad(-scene.heading_deg))
			player:set_look_vertical(math.rad(scene.tilt_deg))
		end
		state.ready = true
	end)
end

local function apply(player, command)
	state.weather = command.weather or state.weather
	state.time = command.time or state.time
	if command.weather or command.time then
		atmosphere.set(player, state.weather, state.time)
	end
	if command.enter then
		enter(player, command.enter)
	end
	state.id = command.id
end

local function read_command(player)
	local file = io.open(world_path .. "/command.json", "r")
	if not file then
		return
	end
	local command = minetest.parse_json(file:read("*a"))
	file:close()
	if command and command.id ~= state.id then
		apply(player, command)
	end
end

local function write_status(player)
	local pos = player:get_pos()
	local status = places.describe(player, pos)
	status.id, status.ready, status.found = state.id, state.ready, state.found
	status.weather, status.time = state.weather, state.time
	status.position = {pos.x, pos.y, pos.z}
	status.heading_deg = (-math.deg(player:get_look_horizontal())) % 360
	status.tilt_deg = math.deg(player:get_look_vertical())
	local path = world_path .. "/status.json"
	local file = io.open(path .. ".partial", "w")
	file:write(minetest.write_json(status))
	file:close()
	os.rename(path .. ".partial", path)
end

minetest.register_on_joinplayer(function(player)
	player:hud_set_flags({
		hotbar = false, healthbar = false, breathbar = false, minimap = false,
		crosshair = false, wielditem = true, chat = false,
	})
	player:get_inventory():set_stack("main", 1, "gamegen:pickaxe")
	atmosphere.set(player, state.weather, state.time)
end)

minetest.register_globalstep(function()
	local player = minetest.get_player_by_name(PLAYER)
	if player then
		read_command(player)
		write_status(player)
	end
end)
