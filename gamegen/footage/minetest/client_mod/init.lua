-- Client side of the recorder. It tells the position of each frame that is drawn: the server, which has a thread and a
-- pace of its own, hears of it later, seconds later on a busy machine.

minetest.register_globalstep(function()
	local player = minetest.localplayer
	if player then
		local pos = player:get_pos()
		-- An action: errors and what is printed would be shown in the picture.
		minetest.log("action", string.format("gamegen position: %.6f %.6f %.6f", pos.x, pos.y, pos.z))
	end
end)
