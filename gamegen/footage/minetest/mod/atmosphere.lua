-- Weather and time of day: sky, clouds, light and precipitation.

local atmosphere = {}

-- Game clock (fraction of a day) and the share of daylight; dusk and dawn keep the sun near the horizon.
local TIMES = {
	day = {clock = 0.46, light = 1.0},
	dusk = {clock = 0.775, light = 0.58},
	dawn = {clock = 0.225, light = 0.585},
	night = {clock = 0.0, light = 0.37},
}

-- Sky colours by time; grey weathers replace them by one shade scaled by the time's light.
local CLEAR_SKY = {
	day = {top = "#5aaef2", horizon = "#9ad6f6"},
	dusk = {top = "#8a5a8c", horizon = "#f4823c"},
	dawn = {top = "#9c9ee0", horizon = "#f6b8b4"},
	night = {top = "#0a1030", horizon = "#1c2450"},
}
local SHADE = {day = 1.0, dusk = 0.66, dawn = 0.74, night = 0.25}
local TINT = {day = {1, 1, 1}, dusk = {1.1, 0.94, 0.88}, dawn = {1.05, 0.96, 0.99}, night = {0.85, 0.95, 1.25}}

local GREYS = {
	cloudy = {158, 168, 178},
	rain = {104, 114, 126},
	storm = {62, 70, 80},
	snow = {206, 212, 218},
	fog = {190, 194, 198},
	dust = {200, 150, 94},
}

local rain = {
	texture = "gamegen_rain.png", amount = 800, speed = 14, sway = 0.4, size = 3.8, vertical = true, life = 0.9,
}
local PRECIPITATION = {
	rain = rain,
	storm = {
		texture = "gamegen_rain.png", amount = 1100, speed = 19, sway = 2.5, size = 4.2, vertical = true, life = 0.7,
	},
	snow = {
		texture = "gamegen_flake.png", amount = 420, speed = 2.6, sway = 0.8, size = 1.9, vertical = false, life = 3,
	},
	dust = {
		texture = "gamegen_dust.png", amount = 160, speed = 0.7, sway = 6, size = 1.4, vertical = false, life = 2,
	},
}

local spawner

local function shaded(rgb, time)
	local tint, shade = TINT[time], SHADE[time]
	local channels = {}
	for i = 1, 3 do
		channels[i] = math.floor(math.min(255, rgb[i] * shade * tint[i]))
	end
	return string.format("#%02x%02x%02x", channels[1], channels[2], channels[3])
end

local function set_precipitation(player, weather)
	if spawner then
		minetest.delete_particlespawner(spawner)
		spawner = nil
	end
	local kind = PRECIPITATION[weather]
	if not kind then
		return
	end
	spawner = minetest.add_particlespawner({
		amount = kind.amount, time = 0, attached = player,
		minpos = {x = -8, y = 1, z = -8}, maxpos = {x = 8, y = 8, z = 8},
		minvel = {x = -kind.sway, y = -kind.speed, z = -kind.sway},
		maxvel = {x = kind.sway, y = -kind.speed * 1.15, z = kind.sway},
		minexptime = kind.life * 0.5, maxexptime = kind.life,
		minsize = kind.size * 0.7, maxsize = kind.size * 1.3,
		vertical = kind.vertical, collisiondetection = false, texture = kind.texture,
	})
end

local function set_clear_sky(player, time)
	local colours = CLEAR_SKY[time]
	player:set_sky({
		type = "regular", clouds = true,
		sky_color = {
			day_sky = colours.top, day_horizon = colours.horizon,
			dawn_sky = colours.top, dawn_horizon = colours.horizon,
			night_sky = colours.top, night_horizon = colours.horizon,
			fog_tint_type = "default",
		},
	})
	player:set_clouds({density = 0.4, color = "#fff0f0e5", height = 120, thickness = 16})
	player:set_sun({visible = true})
	player:set_moon({visible = true})
	player:set_stars({visible = true})
end

local function set_grey_sky(player, rgb, time)
	player:set_sky({type = "plain", base_color = shaded(rgb, time), clouds = false})
	player:set_sun({visible = false, sunrise_visible = false})
	player:set_moon({visible = false})
	player:set_stars({visible = false})
end

-- Sets the player's weather (clear, cloudy, rain, storm, snow, fog, dust) and time (day, dusk, dawn, night).
function atmosphere.set(player, weather, time)
	minetest.set_timeofday(TIMES[time].clock)
	player:override_day_night_ratio(TIMES[time].light)
	if GREYS[weather] then
		set_grey_sky(player, GREYS[weather], time)
	else
		set_clear_sky(player, time)
	end
	set_precipitation(player, weather)
end

return atmosphere
